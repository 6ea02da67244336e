"""Trials of a version on a real server before it goes live: with logged requests, and with copies of live ones."""

import csv
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pytest

from handlers.observation import counters, segments, slot
from handlers.observation.counters import Snapshot
from serving import archive, deploy
from serving import server as server_module
from serving.client import Client, ClientError, Prediction
from serving.host.state import ServerState
from serving.lifecycle import launch
from serving.lifecycle.deployment import DeployError, DeployLimits
from serving.rollout.canary import Canary
from serving.rollout.live_trial import Length, Shadow
from serving.rollout.replay import Replay
from serving.rollout.trial import Trial
from tests.server import faulty
from tests.server.conftest import CLASSES, CONFIG, ROOT, export, free_offset, picture, run_cli
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
    with open(live / "logs" / "trials" / f"{NAME}-{OTHER}-replay.csv", newline="") as file:
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


class Callers:
    """Clients that ask for the default version in the background, each time with another image."""

    def __init__(self, root: Path, rate: float = 60.0) -> None:
        self._root, self._ending, self._rate = root, threading.Event(), rate
        self.answers: list[Prediction] = []
        self.errors: list[ClientError] = []

    def _run(self, first: int) -> None:
        with Client(root=self._root) as client:
            for seed in itertools.count(first, 2):
                if self._ending.wait(2 / self._rate):
                    return
                try:
                    self.answers.append(client.predict(picture(seed), NAME))
                except ClientError as error:
                    self.errors.append(error)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._run, args=(first,)) for first in range(2)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()


def label(root: Path, answers: Iterable[Prediction], labels: Iterable[str]) -> None:
    """Give labels to logged answers, as make feedback does."""
    with open(root / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["request_id", "label"])
        table.writerows((answer.prediction_id, one) for answer, one in zip(answers, labels, strict=True))
    done = run_cli("monitoring.feedback", NAME, "labels.csv", root=root)
    assert done.returncode == 0, done.stderr


def mirrors(root: Path) -> list[Path]:
    server = ServerState.read(root)
    assert server is not None
    return list(launch.mirror(server.temporary).glob("*"))


def test_a_shadow_answers_copies_of_live_requests_and_nobody_gets_its_answers(live: Path) -> None:
    length = Length(requests=120, minutes=2.0)
    with Callers(live) as callers:
        said = "\n".join(go(live, SAME, Shadow(1.0, length=length)))
    assert "  120 images: agreement 100.0% " in said and "no labels: it differs by 0.0%, and may be better" in said
    assert "not answered: 0 of 120" in said and "too slow: 0 of 120" in said and mirrors(live) == []
    assert not callers.errors
    switch = next(place for place, answer in enumerate(callers.answers) if answer.version == SAME)
    assert {answer.version for answer in callers.answers[:switch]} == {"1.0"} and switch >= 120


@pytest.mark.slow
def test_a_shadow_that_labels_show_to_be_worse_is_refused_and_its_answers_are_in_a_table(live: Path) -> None:
    length = Length(requests=200, minutes=2.0, labels=60.0)
    with Callers(live) as callers, ThreadPoolExecutor(1) as pool:
        trial = pool.submit(go, live, OTHER, Shadow(1.0, length=length))
        until(lambda: mirrors(live), 60)
        start = len(callers.answers)
        until(lambda: len(callers.answers) >= start + 300, 60)
        answers = callers.answers[:]
        until(lambda: sum(1 for _ in segments.read(launch.predictions(live) / NAME)) >= len(answers), 20)
        label(live, answers, [answer.label for answer in answers])
        with pytest.raises(DeployError, match=r"shadow failed: it is worse than 1\.0 \(only the live version is right"):
            trial.result()
    assert not callers.errors and {answer.version for answer in callers.answers} == {"1.0"}
    with open(live / "logs" / "trials" / f"{NAME}-{OTHER}-shadow.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) <= 200 and any(row["label"] == row["live_label"] != row["new_label"] for row in rows)


def test_a_canary_answers_its_share_of_the_requests_and_then_all(live: Path) -> None:
    with Callers(live) as callers:
        said = "\n".join(go(live, SAME, Canary(0.5, length=Length(requests=100, minutes=2.0))))
    assert not callers.errors and "  100 images: agreement 100.0% " in said and "not answered: 0 of 100" in said
    assert not list((live / "logs").glob("canary-*")) and mirrors(live) == []
    versions = [answer.version for answer in callers.answers]
    start = versions.index(SAME)
    share = versions[start : start + 200].count(SAME) / 200
    assert 0.3 < share < 0.7 and versions[-1] == SAME


def test_a_canary_that_fails_is_undone_and_every_client_gets_an_answer(live: Path) -> None:
    failing = archive.build(
        NAME, "3.0", run=live / "runs" / SAME, store=live / "model_store",
        overrides=["minWorkers=1", "handler.precision=fp32"], rehearse=False,
    )  # fmt: skip
    faulty.spoil(failing, faulty.raises_in_handle_while(live / "fail"))
    with Callers(live) as callers, ThreadPoolExecutor(1) as pool:
        trial = pool.submit(go, live, "3.0", Canary(0.5, length=Length(minutes=2.0)))
        until(lambda: any(answer.version == "3.0" for answer in callers.answers), 60)
        (live / "fail").touch()
        with pytest.raises(DeployError, match=r"canary failed: it is worse than 1\.0 \(not answered: "):
            trial.result()
    assert not callers.errors and callers.answers[-1].version == "1.0"
    assert {answer.version for answer in callers.answers} == {"1.0", "3.0"}
    assert not list((live / "logs").glob("canary-*.json"))


@pytest.mark.slow
def test_a_shadow_without_traffic_or_interrupted_changes_nothing(live: Path) -> None:
    with pytest.raises(DeployError, match=r"shadow failed: 0 requests in 0\.02 minutes are too few"):
        go(live, SAME, Shadow(1.0, length=Length(minutes=0.02)))
    command = [sys.executable, "-m", "serving.deploy", NAME, SAME, "--shadow", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=live, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: mirrors(live), 90)
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; the deployment was undone" in error
    assert f"undone: {SAME} is removed" in output and mirrors(live) == []
    with Client(root=live) as client:
        assert client.predict(picture(), NAME).version == "1.0"
