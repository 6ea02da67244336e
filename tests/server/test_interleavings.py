"""Starts, deployments and `make up` side by side on one server of three small models: nobody's model is lost."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline import steps
from serving import archive, deploy
from serving import server as server_module
from serving.client import Client, ClientError
from serving.host import state
from serving.host.state import ServerState
from serving.store import model_store
from serving.store.live import Live, LiveModel
from serving.watch import Watch
from tests.campaigns import stepped
from tests.server import faulty
from tests.server.conftest import CLASSES, CONFIG, ROOT, export, free_offset, picture
from tests.until import until

NAMES = ("ants", "bees", "cats")
UP = """
import sys
from pathlib import Path
from pipeline import steps
from serving.store import model_store

found = model_store.find(sys.argv[1], sys.argv[2], Path("model_store"))
print(steps.serve(found, Path.cwd()))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with 1.0 of three models, of which the cats cannot load while `slow` is there, and 2.0 of one."""
    root = tmp_path_factory.mktemp("interleavings")
    shutil.copy(CONFIG, root)
    for name, version in (*((name, "1.0") for name in NAMES), ("bees", "2.0")):
        run = root / "runs" / f"{name}-{version}"
        export(run, CLASSES["shapes"], seed=int(version[0]))
        overrides = ["handler.precision=fp32", "minWorkers=1"]
        built = archive.build(name, version, run=run, store=root / "model_store", overrides=overrides, rehearse=False)
        if name == "cats":
            faulty.spoil(built, faulty.waits_while(root / "slow"))
    yield root
    (root / "slow").unlink(missing_ok=True)
    server_module.stop(root=root)


@pytest.fixture(scope="module")
def offset() -> int:
    return free_offset(26_000)


def begin(root: Path, offset: int, *words: str) -> "subprocess.Popen[str]":
    """Start a program in `root`."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "SIGHTLINE_PORT_OFFSET": str(offset)}
    return subprocess.Popen(
        [sys.executable, "-u", *words], cwd=root, env=variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def end(process: "subprocess.Popen[str]") -> str:
    """Return what a program said; it must have gone well."""
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def loads(root: Path) -> bool:
    """Return whether a server loads in `root`."""
    known = ServerState.read(root)
    return known is not None and known.process() is not None and Path(known.key_file).exists()


def served(root: Path) -> dict[str, str]:
    """Return the default versions of the models that answer."""
    with Client(root=root) as client:
        return {name: str(client.predict(picture(), name).version) for name in client.models()}


def ready(root: Path, *names: str) -> bool:
    """Return whether models have their workers; a server that has just begun has no keys yet."""
    with contextlib.suppress(ClientError), Client(root=root) as client:
        return all(client.describe(name).ready for name in names)
    return False


def test_a_deployment_beside_a_start_that_still_loads_loses_no_model(home: Path, offset: int) -> None:
    (home / "slow").touch()
    start = begin(home, offset, "-m", "serving.server", "start", "ants", "bees=1.0", "cats")
    until(lambda: ready(home, "ants", "bees"), 60)
    deployment = begin(home, offset, "-m", "serving.deploy", "bees", "2.0", "--watch", "0.3")
    assert deployment.stdout is not None
    first = deployment.stdout.readline()
    (home / "slow").unlink()
    end(start)
    assert "bees 2.0 is live" in end(deployment)
    assert Live.read(home).models == {
        "ants": LiveModel("1.0"), "bees": LiveModel("2.0", "1.0"), "cats": LiveModel("1.0"),
    }  # fmt: skip
    assert served(home) == {"ants": "1.0", "bees": "2.0", "cats": "1.0"}
    assert first == "another process is starting or stopping the server: waiting for it ...\n"


def test_make_up_of_a_model_that_is_not_ready_leaves_the_server_and_its_other_models_alone(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state.running(home)
    with Client(root=home) as client:
        client.scale("ants", "1.0", 0)
        until(lambda: not client.describe("ants").workers, 30)
        found = model_store.find("ants", "1.0", home / "model_store")
        steps.serve(found, home)
        assert state.running(home) == before and before is not None
        assert capsys.readouterr().out == "ants 1.0 is live and not READY: waiting for it\n"
        psutil.Process(client.describe("ants").workers[0].pid).kill()
        until(lambda: not client.describe("ants").ready, 30)
        assert served(home)["bees"] == "2.0", "which goes on answering"
        steps.serve(found, home)
        assert client.describe("ants").ready
    assert state.running(home) == before


@pytest.mark.parametrize("number", [3, 4, 6, 7])
def test_a_rollback_that_is_killed_at_a_step_is_whole_or_nothing(home: Path, number: int, tmp_path: Path) -> None:
    before = Live.read(home)
    bees = before.models["bees"]
    words = ["-m", "tests.campaigns.stepped", "kill", str(number), str(tmp_path / "steps"), "serving.deploy", "bees"]
    killed = begin(home, 0, *words, "--rollback")
    said, _ = killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL, said
    after = Live.read(home).models
    assert after["bees"] in (bees, LiveModel(str(bees.previous), bees.version)), stepped.steps(tmp_path / "steps")
    assert {**after, "bees": bees} == before.models
    watch = Watch(home)
    try:
        watch.look()
    finally:
        watch.close()
    assert served(home)["bees"] == after["bees"].version, "the watcher sets back a default that is not recorded"


@pytest.mark.slow
def test_a_start_that_was_killed_loses_no_model_to_the_next_deployment(home: Path, offset: int) -> None:
    server_module.stop(root=home)
    (home / "model_store" / "live.json").unlink(missing_ok=True)
    (home / "slow").touch()
    start = begin(home, offset, "-m", "serving.server", "start", "ants", "bees=1.0", "cats")
    until(lambda: loads(home), 60)
    start.kill()
    start.communicate()
    (home / "slow").unlink()
    until(lambda: ready(home, *NAMES), 60)
    end(begin(home, offset, "-c", UP, "bees", "2.0"))
    assert {name: each.version for name, each in Live.read(home).models.items()} == served(home)
    assert served(home) == {"ants": "1.0", "bees": "2.0", "cats": "1.0"}


@pytest.mark.slow
def test_two_make_up_of_one_model_seconds_apart_serve_it_beside_the_others(home: Path, offset: int) -> None:
    live = {name: each.version for name, each in Live.read(home).models.items()}
    server_module.stop(root=home)
    (home / "slow").touch()
    first = begin(home, offset, "-c", UP, "ants", "1.0")
    until(lambda: loads(home), 60)
    second = begin(home, offset, "-c", UP, "ants", "1.0")
    assert second.stdout is not None
    waits = second.stdout.readline()
    (home / "slow").unlink()
    assert "True)" in end(first) and "False)" in end(second), "one of them has started it"
    assert served(home) == live and "a server is being started or stopped here" in waits


@pytest.mark.slow
def test_make_up_of_two_models_at_once_deploys_both(home: Path, offset: int) -> None:
    deploy.rollback("bees", root=home, log=lambda _: None)
    with Client(root=home) as client:
        client.unregister("cats", "1.0")
    Live.update(home, lambda live: live.without([("cats", "1.0")]))
    both = begin(home, offset, "-c", UP, "bees", "2.0"), begin(home, offset, "-c", UP, "cats", "1.0")
    for each in both:
        end(each)
    assert served(home) == {"ants": "1.0", "bees": "2.0", "cats": "1.0"}
    assert {name: each.version for name, each in Live.read(home).models.items()} == served(home)
