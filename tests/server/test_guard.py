"""A version of a real server that begins to fail after its deployment is rolled back, once."""

import dataclasses
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.golden import Golden
from serving import archive, deploy
from serving import server as server_module
from serving.client import Client, ClientError
from serving.lifecycle import exporter
from serving.lifecycle.deployment import DeployLimits
from serving.lifecycle.repairs import Repairs
from serving.rollout.guard import Guard
from serving.store.live import Live, LiveModel
from serving.store.model_store import Archive
from tests.server import faulty
from tests.server.conftest import CLASSES, CONFIG, ROOT, export, free_offset, picture
from tests.until import until

NAME, MINUTES = "shapes", 30.0
QUICK = DeployLimits(watch=0.3)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a server of 1.0, with 2.0 in the store, which raises while the file `fail` exists."""
    root = tmp_path_factory.mktemp("guard")
    shutil.copy(CONFIG, root)
    for seed, version in enumerate(("1.0", "2.0")):
        run = export(root / "runs" / version, CLASSES[NAME], seed).parent
        settings = ["minWorkers=1", "handler.precision=fp32"]
        built = archive.build(NAME, version, run=run, store=root / "model_store", overrides=settings, rehearse=False)
    # In place of the method inside which failed requests are counted.
    code = faulty.raises_in_handle_while(root / "fail").replace("ImageHandler.handle", "Service._answer")
    code = code.replace("(self, data, context)", "(self, data)")
    faulty.spoil(built, "from handlers.service import Service" + code)
    server_module.start([f"{NAME}=1.0"], root=root, offset=free_offset(30_000))
    yield root
    server_module.stop(root=root)


@pytest.fixture
def deployed(home: Path) -> Path:
    """Return the same just after the deployment of 2.0."""
    (home / "fail").unlink(missing_ok=True)
    deploy.deploy(NAME, "2.0", root=home, limits=QUICK, verify=False, log=lambda _: None)
    assert Live.read(home).models[NAME] == LiveModel("2.0", "1.0")
    return home


def ask(root: Path, count: int) -> int:
    """Send requests; return how many failed."""
    failed = 0
    with Client(root=root) as client:
        for _ in range(count):
            try:
                client.predict(picture(), NAME)
            except ClientError:
                failed += 1
    return failed


def exporting(root: Path, guard: Guard) -> None:
    """Wait until the guard has read the exporter."""

    def is_read() -> bool:
        guard.look()
        return bool(guard._first)

    until(is_read, 60)


def test_a_version_that_fails_is_rolled_back_once(
    deployed: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    caplog.set_level(logging.WARNING)
    guard, late = Guard(deployed, MINUTES), Guard(deployed, MINUTES, clock=lambda: time.time() + 61 * MINUTES)
    with exporter.beside(deployed):
        exporting(deployed, guard)
        assert ask(deployed, 5) == 0
        (deployed / "fail").touch()
        assert ask(deployed, 5) == 5
        late.look()
        assert Live.read(deployed).models[NAME].version == "2.0" and not late._first, "long after the deployment"
        guard.look()
        assert Live.read(deployed).models[NAME] == LiveModel("1.0", "2.0")
        assert ask(deployed, 5) == 0
        for _ in range(3):
            guard.look()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "serving.watch"]
    assert line.startswith(f"{NAME} is rolled back from 2.0 to 1.0: ") and "of the previous version" in line
    assert Live.read(deployed).models[NAME] == LiveModel("1.0", "2.0"), "not again, and not to the worse version"
    assert Repairs(deployed).counts() == {"rollback": 1}


def test_a_version_that_is_wrong_itself_is_not_rolled_back_to(
    deployed: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, golden = Repairs(deployed).counts(), Archive.golden
    monkeypatch.setattr("serving.rollout.alarms.errors", lambda *_: "a test says so")
    monkeypatch.setattr(Archive, "golden", lambda archive: [] if archive.version == "2.0" else wrong(golden(archive)))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    guard = Guard(deployed, MINUTES)
    with exporter.beside(deployed):
        exporting(deployed, guard)
        guard.look()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "serving.watch"]
    assert line.startswith(f"{NAME} 2.0 stays live (a test says so): no rollback to 1.0: golden image ")
    assert Live.read(deployed).models[NAME] == LiveModel("2.0", "1.0") and Repairs(deployed).counts() == before
    deploy.rollback(NAME, root=deployed)


def wrong(images: list[Golden]) -> list[Golden]:
    """Return golden images that expect other answers."""
    return [dataclasses.replace(image, probabilities=tuple(reversed(image.probabilities))) for image in images]


@pytest.mark.slow
def test_the_watcher_rolls_back_if_it_is_asked_to(deployed: Path) -> None:
    command = [sys.executable, "-m", "serving.watch", "--rollback"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = Repairs(deployed).counts().get("rollback", 0)
    with subprocess.Popen(command, cwd=deployed, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            log = deployed / "logs" / "watch.log"
            until(lambda: log.is_file() and "watching " in log.read_text(), 60)
            (deployed / "fail").touch()

            def is_rolled_back() -> bool:
                ask(deployed, 5)
                return "is rolled back from 2.0 to 1.0" in log.read_text()

            until(is_rolled_back, 90, promised=True)
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert Live.read(deployed).models[NAME] == LiveModel("1.0", "2.0")
    assert Repairs(deployed).counts().get("rollback", 0) == before + 1
