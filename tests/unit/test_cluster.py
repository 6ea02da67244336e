"""`make score`, `make data` and `make train` on a Ray cluster of three nodes, also when a node dies."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import pytest

from pipeline import score
from serving import archive
from tests.server.conftest import CLASSES, export, picture
from tests.unit import class_folders
from tests.unit.test_ranks import ROOT, SETTINGS
from tests.unit.test_score import rows
from tests.unit.test_tune import SPACE
from tests.unit.tinted_store import TINY, tinted_store
from tests.until import until
from training import cluster as cluster_module
from training import cluster_training, tune
from training.cluster import INSTALL, MEMORY, ClusterError, ClusterPool
from training.data import prepare
from training.data.store import PreparedDataset
from training.tune import INSTALL as INSTALL_OPTUNA

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason=f"Ray is missing: {INSTALL}")

NAME, IMAGES, NODES = "shapes", 240, 3
NODE = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with an archive and a folder of images, one of them broken."""
    monkeypatch.chdir(tmp_path)
    run = export(tmp_path / "runs" / NAME, CLASSES[NAME]).parent
    archive.build(NAME, "1.0", run=run, store=tmp_path / "model_store", rehearse=False)
    (tmp_path / "photos").mkdir()
    for seed in range(IMAGES):
        (tmp_path / "photos" / f"{seed:03d}.jpg").write_bytes(picture(seed))
    (tmp_path / "photos" / "broken.jpg").write_bytes(picture()[:60])
    return tmp_path


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Return a cluster of one node with a core, which is this machine's."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args=NODE)
    yield nodes
    nodes.shutdown()


@pytest.fixture
def cluster(nodes: Any) -> Any:
    """Return the same with three nodes."""
    for _ in range(NODES - len(nodes.list_all_nodes())):
        nodes.add_node(**NODE)
    return nodes


@pytest.mark.slow
def test_a_cluster_prepares_the_same_data_set(home: Path, cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "dog"):
        (home / "pets" / name).mkdir(parents=True)
        for seed in range(100):
            (home / "pets" / name / f"{seed}.jpg").write_bytes(picture(seed + 1000 * len(name) * (name == "dog")))
    common = ("dataset=class_folders", "raw=pets", "network=small_cnn")
    assert prepare.main([*common, "name=alone"]) == 0
    assert prepare.main([*common, "name=together", f"cluster={cluster.address}"]) == 0
    alone, together = (PreparedDataset.open(home / "data" / "processed" / name) for name in ("alone", "together"))
    assert np.array_equal(alone.images, together.images) and alone.content_key == together.content_key
    assert prepare.main([*common, "name=third", "cluster=nowhere"]) == 1
    assert "'nowhere' is no cluster" in capsys.readouterr().err


def fails(number: int) -> int:
    """Return the number; raise an error for the third."""
    if number == 2:
        raise FileNotFoundError("no third one")
    return number


@pytest.mark.slow
def test_errors_of_nodes_are_passed_on(home: Path, cluster: Any) -> None:
    with ClusterPool(cluster.address) as pool:
        answers = pool.map(fails, range(4))
        assert [next(answers), next(answers)] == [0, 1]
        with pytest.raises(FileNotFoundError, match="no third one"):
            next(answers)
    with (
        ClusterPool(cluster.address, [Path("gone")]) as pool,
        pytest.raises(ClusterError, match=f"a node of the cluster, has no {home}/gone: have all nodes share"),
    ):
        list(pool.map(fails, [0]))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no cluster at 127.0.0.1:1 .*refused.*: start one with ray start --head"),
        ("nowhere", "'nowhere' is no cluster: give local, or host:port"),
        ("127.0.0.1:99999", "no cluster at 127.0.0.1:99999"),
    ],
)
def test_an_address_without_a_cluster_is_one_line(home: Path, address: str, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        score.score(NAME, "photos", cluster=address)
    assert not list(home.rglob("part-*"))


def test_data_that_is_not_prepared_is_no_fault_of_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tuning, training = [*TINY, "--name=search", "--cluster=local"], ["local", *SETTINGS, "name=pets"]
    for command, arguments in ((tune.main, tuning), (cluster_training.main, training)):
        assert command(arguments) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "prepare" in error and "node" not in error
    assert not (tmp_path / "runs").exists()


def test_without_ray_the_command_says_what_to_install(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster_module, "find_spec", lambda name: None)
    assert score.main([NAME, "photos", "--cluster", "local"]) == 1
    assert capsys.readouterr().err == f"error: Ray is missing: {INSTALL}\n"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason=f"optuna is missing: {INSTALL_OPTUNA}")
def test_the_nodes_share_one_search(cluster: Any, tmp_path: Path) -> None:
    tinted_store(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "training.tune", *TINY, "--name=search", "--trials=6", "--space=space.yaml"]
    command += ["--cluster", cluster.address]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    trials = json.loads((tmp_path / "runs" / "search" / "search.json").read_text())["trials"]
    assert 6 <= len(trials) < 6 + NODES and {trial["state"] for trial in trials} <= {"complete", "pruned"}
    assert done.stdout.splitlines()[-1].startswith(".venv/bin/python -m training.train dataset=class_folders ")


@pytest.mark.slow
def test_training_goes_on_after_a_node_has_died(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    class_folders.write(tmp_path / "raw", 40)
    assert prepare.main([*SETTINGS, "raw=raw", "name=pets"]) == 0
    table, epochs = tmp_path / "runs" / "pets" / "metrics.csv", 6
    command = [sys.executable, "-m", "training.cluster_training", cluster.address, *SETTINGS]
    command.append(f"trainer.epochs={epochs}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*command, "name=pets"], env=environment, stdout=PIPE, stderr=PIPE, text=True) as process:
        until(lambda: (table.is_file() and table.read_text().count("\n") > 2) or process.poll() is not None, 120)
        victim = next(node for node in cluster.list_all_nodes() if not node.head)
        cluster.remove_node(victim, allow_graceful=False)
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert [line.split(",")[0] for line in table.read_text().splitlines()[1:]] == [str(n + 1) for n in range(epochs)]
    assert output.count("resuming after its last whole epoch") == 1
    assert 0 <= output.count("  validation loss ") - epochs <= 1, "epochs that were trained twice"
    assert not (tmp_path / "runs" / "pets" / cluster_training.STATE).exists()
    refused = subprocess.run(
        [*command, "name=none", "store=pets", "trainer.lr=-1"], env=environment, capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert refused.stderr == "error: trainer.lr is -1: write a number of at least 0\n"


def slow(number: int) -> int:
    """Return the number after a while."""
    threading.Event().wait(0.2)
    return number


@pytest.mark.slow
def test_no_task_is_lost_with_its_node(cluster: Any) -> None:
    numbers = range(80)
    with ClusterPool(cluster.address) as pool:
        answers = pool.map(slow, numbers)
        first = [next(answers) for _ in range(3)]
        cluster.remove_node(next(node for node in cluster.list_all_nodes() if not node.head), allow_graceful=False)
        until(lambda: pool.size < NODES, 30)
        assert [*first, *answers] == list(numbers)


@pytest.mark.slow
def test_a_cluster_of_three_nodes_writes_the_same_table_although_one_dies(home: Path, cluster: Any) -> None:
    alone = score.score(NAME, "photos", out=home / "alone", rows=2)
    together = home / "together"
    victim = next(node for node in cluster.list_all_nodes() if not node.head)

    def kill_one() -> None:
        until(lambda: len(list(together.glob("part-*"))) > 3, 120)
        cluster.remove_node(victim, allow_graceful=False)

    killer = threading.Thread(target=kill_one)
    killer.start()
    scores = score.score(NAME, "photos", out=together, rows=2, cluster=cluster.address)
    killer.join()
    assert (scores.images, scores.errors, scores.answered_now) == (IMAGES + 1, 1, IMAGES + 1)
    assert rows(together) == rows(alone.folder)
    assert score.score(NAME, "photos", out=together).answered_now == 0
