"""`make score` and `make data` on a Ray cluster of three nodes write what one process writes, also when a node dies."""

import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import score
from serving import archive
from tests.server.conftest import CLASSES, export, picture
from tests.unit.test_score import rows
from tests.until import until
from training import cluster as cluster_module
from training.cluster import INSTALL, MEMORY, ClusterError, ClusterPool
from training.data import prepare
from training.data.store import PreparedDataset

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason=f"Ray is missing: {INSTALL}")

NAME, IMAGES, NODES = "shapes", 240, 3


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
def cluster() -> Iterator[Any]:
    """Return a cluster of three nodes with a core each; its first node is this machine's."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(NODES - 1):
        nodes.add_node(**node)
    yield nodes
    nodes.shutdown()


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


def test_without_ray_the_command_says_what_to_install(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster_module, "find_spec", lambda name: None)
    assert score.main([NAME, "photos", "--cluster", "local"]) == 1
    assert capsys.readouterr().err == f"error: Ray is missing: {INSTALL}\n"


@pytest.mark.slow
def test_a_cluster_of_three_nodes_writes_the_same_table_although_one_dies(home: Path, cluster: Any) -> None:
    alone = score.score(NAME, "photos", out=home / "alone", rows=8)
    together = home / "together"
    victim = next(node for node in cluster.list_all_nodes() if not node.head)

    def kill_one() -> None:
        until(lambda: len(list(together.glob("part-*"))) > 3, 120)
        cluster.remove_node(victim, allow_graceful=False)

    killer = threading.Thread(target=kill_one)
    killer.start()
    scores = score.score(NAME, "photos", out=together, rows=8, cluster=cluster.address)
    killer.join()
    assert (scores.images, scores.errors, scores.answered_now) == (IMAGES + 1, 1, IMAGES + 1)
    assert rows(together) == rows(alone.folder)
    assert score.score(NAME, "photos", out=together, rows=8).answered_now == 0
