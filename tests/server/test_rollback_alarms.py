"""Each alarm of a new version rolls back a real server: latency, labels, other classes, drift that only it sees."""

import csv
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.observation import segments
from monitoring import feedback
from serving import archive, deploy
from serving import server as server_module
from serving.client import Client, Prediction
from serving.lifecycle import exporter, launch
from serving.lifecycle.deployment import DeployLimits
from serving.rollout.guard import Guard
from serving.store.live import Live
from tests.server import faulty
from tests.server.conftest import CONFIG, ROOT, free_offset, picture
from tests.server.test_drift import NAME, save_watched
from tests.until import until

pytestmark = pytest.mark.slow

IMAGES, LABELLED = 240, 60
QUICK = DeployLimits(watch=0.3)
OTHER_CLASSES = """
from handlers.classifier import Classifier
_outputs = Classifier.outputs
def _moved(self, images):
    outputs = _outputs(self, images)
    count = len(self.spec.classes)
    outputs[:, :count] = outputs[:, :count].roll(1, dims=1)
    return outputs
Classifier.outputs = _moved
"""


def slow_while(flag: Path) -> str:
    """Return code whose resizing waits while a file is there, within a stage that is measured."""
    return f"""
import os, time
from handlers.preprocessing import Preprocess
_resize_at_once = Preprocess.resize
def _slowly(self, image):
    time.sleep(0.1 if os.path.exists({str(flag)!r}) else 0)
    return _resize_at_once(self, image)
Preprocess.resize = _slowly
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a server of 1.0, which has answered images, with an exporter beside it."""
    root = tmp_path_factory.mktemp("alarms")
    shutil.copy(CONFIG, root)
    build(root, "1.0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        server_module.start([f"{NAME}=1.0"], root=root, offset=free_offset(35_000))
        try:
            with exporter.beside(root):
                send(root, IMAGES)
                yield root
        finally:
            server_module.stop(root=root)


def build(root: Path, version: str, *, size: tuple[int, int] = (48, 40), code: str = "") -> None:
    """Build a version whose reference has images of some size; `code` comes after that of its handler."""
    run = save_watched(root / "runs" / version, size=size).parent
    settings = ["handler.precision=fp32", "minWorkers=1", "handler.log=1"]
    faulty.spoil(
        archive.build(NAME, version, run=run, store=root / "model_store", overrides=settings, rehearse=False), code
    )


def send(root: Path, count: int) -> list[Prediction]:
    """Return the answers to images that stay the same."""
    with Client(root=root) as client:
        answers = list(client.predict_many((picture(1000 + seed) for seed in range(count)), NAME))
    return [answer for answer in answers if isinstance(answer, Prediction)]


@pytest.fixture
def guard(home: Path) -> Guard:
    return Guard(home)


def rolled_back(home: Path, guard: Guard, caplog: pytest.LogCaptureFixture, version: str) -> str:
    """Send images until the guard rolls a version back; return the reason."""
    caplog.set_level(logging.WARNING)

    def is_back() -> bool:
        guard.look()
        send(home, IMAGES)
        return Live.read(home).models[NAME].version == "1.0"

    until(is_back, 90)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "serving.watch"]
    before, _, reason = line.partition(": ")
    assert before == f"{NAME} is rolled back from {version} to 1.0"
    return reason


def go(home: Path, version: str, guard: Guard) -> None:
    """Deploy a version, and have the guard see it once."""
    deploy.deploy(NAME, version, root=home, limits=QUICK, verify=False, log=lambda _: None)

    def is_seen() -> bool:
        guard.look()
        return any(key[1] == version for key in guard._first)

    until(is_seen, 60)


def test_latency(home: Path, guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    flag = home / "slow"
    build(home, "2.0", code=slow_while(flag))
    go(home, "2.0", guard)
    flag.touch()
    reason = rolled_back(home, guard, caplog, "2.0")
    assert reason.endswith("of the previous version") and " ms an image, " in reason


def test_labels_that_come_later(
    home: Path, guard: Guard, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every answer of the previous version is right, and every one of the new version is wrong."""
    monkeypatch.chdir(home)
    before = send(home, LABELLED)
    build(home, "3.0", code=OTHER_CLASSES)
    go(home, "3.0", guard)
    after = send(home, LABELLED)
    with open("labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["request_id", "label"])
        table.writerows((answer.prediction_id, answer.label) for answer in before)
        table.writerows((answer.prediction_id, right.label) for answer, right in zip(after, before, strict=True))
    wanted = {answer.prediction_id for answer in (*before, *after)}
    folder = launch.predictions(home) / NAME
    until(lambda: wanted <= {row["request_id"] for row, _ in segments.read(folder)}, 30)
    assert feedback.main([NAME, "labels.csv"]) == 0
    reason = rolled_back(home, guard, caplog, "3.0")
    assert reason == f"0.0% of {LABELLED} labelled answers are right, 100.0% of {LABELLED} of the previous version"


def test_other_classes(home: Path, guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    build(home, "4.0", code=OTHER_CLASSES)
    go(home, "4.0", guard)
    assert rolled_back(home, guard, caplog, "4.0").endswith("of the answers are of other classes than before")


def test_drift_that_only_the_new_version_sees(home: Path, guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    build(home, "5.0", size=(9, 7))  # blurred
    go(home, "5.0", guard)
    assert rolled_back(home, guard, caplog, "5.0") == "it sees drift that the previous version did not see"
