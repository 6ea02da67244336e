"""The prediction log of a real server: labels that come later, and a log folder that cannot be written."""

import csv
import json
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from handlers.classifier import Classifier
from handlers.observation import counters, segments, slot
from handlers.observation.counters import LOG_REASONS, Snapshot
from handlers.requests.labels import Labels
from monitoring import feedback
from serving import archive
from serving import server as server_module
from serving.client import Client
from serving.host.state import ServerState
from serving.lifecycle import launch
from serving.rollout import labels
from tests.server.conftest import CLASSES, CONFIG, export, free_offset, picture
from tests.until import until

NAME, CALLERS = "shapes", 6


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a server with two workers, which log all requests with their images."""
    root = tmp_path_factory.mktemp("feedback")
    shutil.copy(CONFIG, root)
    run = export(root / "runs" / NAME, CLASSES[NAME]).parent
    settings = ["minWorkers=2", "handler.precision=fp32", "handler.log=1", "handler.log_images=true"]
    archive.build(NAME, "1.0", run=run, store=root / "model_store", overrides=settings, rehearse=False)
    server_module.start([f"{NAME}=1.0"], root=root, offset=free_offset(28_000))
    yield root
    server_module.stop(root=root)


def ask(home: Path, bodies: list[bytes]) -> list[httpx.Response]:
    """Return the responses to requests of several callers; every other one has an id of the client."""
    server = ServerState.read(home)
    assert server is not None
    token = json.loads(Path(server.key_file).read_text())["inference"]["key"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/jpeg"}
    with httpx.Client(headers=headers, timeout=30, trust_env=False) as client, ThreadPoolExecutor(CALLERS) as pool:

        def send(place: int) -> httpx.Response:
            own = {"x-request-id": f"client-{uuid.uuid4()}"} if place % 2 else {}
            response = client.post(f"{server.inference}/predictions/{NAME}", content=bodies[place], headers=own)
            assert response.headers["x-prediction-id"] == (own or response.headers)["x-request-id"]
            return response

        return list(pool.map(send, range(len(bodies))))


def dropped(home: Path) -> dict[str, float]:
    """Return the counter of dropped images by reason."""
    server = ServerState.read(home)
    assert server is not None
    sums = dict.fromkeys(LOG_REASONS, 0.0)
    for path in slot.files(launch.observations(server.temporary), counters.SUFFIX):
        for metric, numbers in Snapshot.read(path):
            if metric.name == "sightline_log_dropped_total":
                sums = {reason: sums[reason] + n for reason, n in zip(metric.values, numbers, strict=True)}
    return sums


@pytest.mark.parametrize("requests", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_labels_that_come_later_give_the_offline_accuracy_to_the_digit(
    home: Path, tmp_path: Path, requests: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = launch.predictions(home) / NAME
    (folder / labels.FILE).unlink(missing_ok=True)  # of the other number of requests
    before = sum(1 for _ in segments.read(folder))
    bodies = [picture(seed) for seed in range(requests)]
    responses = ask(home, bodies)
    assert {response.status_code for response in responses} == {200}
    until(lambda: sum(1 for _ in segments.read(folder)) == before + requests, 30)
    truth = [CLASSES[NAME][place] for place in np.random.default_rng(0).integers(0, 3, requests)]
    with open(home / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["request_id", "label"])
        table.writerows(
            (reply.headers["x-prediction-id"], label) for reply, label in zip(responses, truth, strict=True)
        )
    monkeypatch.chdir(home)
    assert feedback.main([NAME, "labels.csv", "--export", str(tmp_path / "images")]) == 0
    offline = Classifier(home / "runs" / NAME / "model.pt").classify(bodies)
    firsts = [next(iter(answer)) for answer in offline if isinstance(answer, Labels)]
    right = sum(first == label for first, label in zip(firsts, truth, strict=True))
    figures = json.loads((folder / feedback.FIGURES).read_text())["versions"]["1.0"]
    assert (figures["images"], figures["right"]) == (requests, right)
    assert figures["accuracy"]["value"] == right / requests
    assert f"{NAME} 1.0: {right} of {requests} labelled images right" in capsys.readouterr().out
    rows = {row["request_id"]: (row, path) for row, path in segments.read(folder)}
    for response, body in zip(responses[:20], bodies, strict=False):
        row, path = rows[response.headers["x-prediction-id"]]
        assert row["labels"] == response.json() and path.read_bytes() == body
    exported = {path.read_bytes(): path.parent.name for path in (tmp_path / "images").glob("*/*.jpg")}
    assert exported == dict(zip(bodies, truth, strict=True))


def test_no_request_fails_while_the_log_cannot_be_written_and_what_it_lacks_is_counted(home: Path) -> None:
    bodies = [picture(seed) for seed in range(100)]
    before = dropped(home)
    shutil.rmtree(launch.predictions(home))
    launch.predictions(home).touch()
    responses = ask(home, bodies)

    def counted() -> bool:
        responses.extend(ask(home, bodies[:2]))  # a worker writes its counters with the next batch
        return dropped(home)["disk"] - before["disk"] >= len(bodies)

    until(counted, 60)
    assert {response.status_code for response in responses} == {200}
    assert dropped(home)["disk"] - before["disk"] <= len(responses) and dropped(home)["queue"] == before["queue"]
    lines = (home / "logs" / "model_log.log").read_text().splitlines()
    assert 1 <= len([line for line in lines if "predictions are not logged at present: " in line]) <= 2
    # Once the folder can be written, the log continues.
    launch.predictions(home).unlink()
    (response,) = ask(home, bodies[:1])
    folder = launch.predictions(home) / NAME
    until(lambda: any(row["request_id"] == response.headers["x-prediction-id"] for row, _ in segments.read(folder)), 10)


def test_the_next_worker_continues_the_file_of_one_that_was_killed(home: Path) -> None:
    folder = launch.predictions(home) / NAME
    for _ in range(2):
        with Client(root=home) as client:
            pid = client.describe(NAME).workers[0].pid
            psutil.Process(pid).kill()
            until(lambda: all(worker.pid != pid for worker in client.describe(NAME).workers), 60)  # noqa: B023
            until(lambda: client.describe(NAME).ready, 60)
            prediction = client.predict(picture(), NAME)
        ids = {prediction.prediction_id} | {
            response.headers["x-prediction-id"] for response in ask(home, [picture(seed) for seed in range(50)])
        }
        until(lambda: ids <= {row["request_id"] for row, _ in segments.read(folder)}, 10)  # noqa: B023
    assert len(segments.segments(folder)) <= 3
