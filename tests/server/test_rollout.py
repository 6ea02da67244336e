"""Trials of a version on a real server: logged requests are replayed to it before it goes live."""

import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.observation import counters, segments, slot
from handlers.observation.counters import Snapshot
from serving import archive, deploy
from serving import server as server_module
from serving.client import Client
from serving.host.state import ServerState
from serving.lifecycle import launch
from serving.lifecycle.deployment import DeployError, DeployLimits
from serving.rollout.replay import Replay
from serving.rollout.trial import Trial
from tests.server.conftest import CLASSES, CONFIG, export, free_offset, picture, run_cli
from tests.until import until

NAME, IMAGES = "shapes", 40
SAME, OTHER = "1.1", "2.0"  # versions with the weights of 1.0, and with others
QUICK = DeployLimits(watch=0.3)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a server whose live version logs all requests with their images."""
    root = tmp_path_factory.mktemp("rollout")
    shutil.copy(CONFIG, root)
    for version, seed in (("1.0", 0), (SAME, 0), (OTHER, 1)):
        run = export(root / "runs" / version, CLASSES[NAME], seed).parent
        settings = ["minWorkers=1", "handler.precision=fp32"]
        settings += ["handler.log=1", "handler.log_images=true"] if version == "1.0" else []
        archive.build(NAME, version, run=run, store=root / "model_store", overrides=settings, rehearse=False)
    server_module.start([f"{NAME}=1.0"], root=root, offset=free_offset(29_000))
    yield root
    server_module.stop(root=root)


@pytest.fixture
def live(home: Path) -> Iterator[Path]:
    """Return the same with 1.0 live before and after a test."""
    yield home
    with Client(root=home) as client:
        if client.describe(NAME).version != "1.0":
            deploy.deploy(NAME, "1.0", root=home, keep=False, limits=QUICK, verify=False, log=lambda _: None)
        assert [status.version for status in client.versions(NAME)] == ["1.0"]


def go(root: Path, version: str, trial: Trial) -> list[str]:
    """Deploy with a trial; return the lines of the log."""
    said: list[str] = []
    deploy.deploy(NAME, version, root=root, limits=QUICK, verify=False, trials=[trial], log=said.append)
    return said


def predictions(root: Path, version: str) -> float:
    """Return the number of images of a version that its workers have counted."""
    server = ServerState.read(root)
    assert server is not None
    folder = launch.observations(server.temporary) / NAME / version
    return sum(
        sum(numbers)
        for path in slot.files(folder.parent.parent, counters.SUFFIX)
        if path.parent == folder
        for metric, numbers in Snapshot.read(path)
        if metric.name == "sightline_predictions_total"
    )


def send(root: Path, count: int) -> None:
    with Client(root=root) as client:
        assert len(list(client.predict_many((picture(seed) for seed in range(count)), NAME))) == count


def test_logged_requests_are_replayed_and_too_little_agreement_is_refused(live: Path) -> None:
    send(live, IMAGES)
    folder = launch.predictions(live) / NAME
    until(lambda: sum(1 for _ in segments.read(folder)) >= IMAGES, 20)
    refused = run_cli("serving.deploy", NAME, OTHER, "--replay", "1", "--watch", "0.3", root=live)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert re.match(rf"error: {NAME} {OTHER} is not deployed: replay failed: agreement .* is below 95\.0%: see ", line)
    assert f"undone: {OTHER} is removed" in refused.stdout
    with open(live / "logs" / "replay" / f"{NAME}-{OTHER}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    agreeing = sum(row["live_label"] == row["new_label"] for row in rows)
    assert len(rows) == IMAGES and f"  {IMAGES} images: agreement {agreeing / IMAGES:.1%}" in refused.stdout
    with Client(root=live) as client:
        assert client.predict(picture(), NAME).version == "1.0"

    logged = sum(1 for _ in segments.read(folder))
    said = go(live, SAME, Replay())
    assert f"  {IMAGES} images: agreement 100.0% " in "\n".join(said) and "  latency of " in "\n".join(said)
    assert predictions(live, SAME) == predictions(live, OTHER) == 0, "replayed images leave no trace"
    assert sum(1 for _ in segments.read(folder)) <= logged + 1, "one request above may be written late"
    with Client(root=live) as client:
        assert client.predict(picture(), NAME).version == SAME


def test_a_version_that_agrees_less_goes_live_if_that_is_asked_for(live: Path) -> None:
    go(live, OTHER, Replay(agreement=0.0))
    with Client(root=live) as client:
        assert client.predict(picture(), NAME).version == OTHER


def test_a_log_of_nothing_changes_nothing(live: Path) -> None:
    before = (live / "model_store" / "live.json").read_bytes()
    refused = run_cli("serving.deploy", NAME, SAME, "--replay", "no such folder", root=live)
    assert refused.returncode == 1 and "has no predictions of shapes: build" in refused.stderr
    assert (live / "model_store" / "live.json").read_bytes() == before
    with pytest.raises(DeployError, match=r"1\.0 is live already"):
        go(live, "1.0", Replay())
