"""Trials of a version with the requests that come through the gateway."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from handlers.observation import segments
from serving import archive, deploy
from serving import server as server_module
from serving.client import Client
from serving.gateway.deployed import RUNNING
from serving.gateway.envoy import ACCESS_LOG
from serving.lifecycle import launch
from serving.lifecycle.deployment import DeployError, DeployLimits
from serving.rollout.canary import Canary
from serving.rollout.live_trial import Length, Shadow
from serving.rollout.trial import Trial
from serving.store.live import Live
from tests.server import faulty, gateways
from tests.server.conftest import CLASSES, CONFIG, export, free_offset
from tests.server.gateways import MODEL as NAME
from tests.server.gateways import RunningGateway, versions
from tests.until import until

VERSIONS = ("1.0", "1.1", "3.0")  # of the same weights; the last one fails when it is told to
LENGTH, CALL_RATE = Length(requests=100, minutes=2.0), 60.0  # requests/s


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a server."""
    root = tmp_path_factory.mktemp("rollout")
    (root / "config.properties").write_text(CONFIG.read_text())
    run = export(root / "runs" / NAME, CLASSES[NAME]).parent
    settings = ["minWorkers=1", "handler.precision=fp32", "handler.log=1"]
    built = [
        archive.build(NAME, version, run=run, store=root / "model_store", overrides=settings, rehearse=False)
        for version in VERSIONS
    ]
    faulty.spoil(built[-1], faulty.raises_in_handle_while(root / "fail"))
    server_module.start([f"{NAME}=1.0"], root=root, offset=free_offset(31_000))
    yield root
    server_module.stop(root=root)


@pytest.fixture(scope="module")
def gateway(root: Path) -> Iterator[RunningGateway]:
    with gateways.running(root, [root]) as running:
        yield running


@pytest.fixture(autouse=True)
def _first_version_is_live(root: Path) -> Iterator[None]:
    yield
    if Live.read(root).models[NAME].version != "1.0":
        go(root, "1.0")


def go(root: Path, version: str, *trials: Trial) -> str:
    """Deploy, after trials; return the log."""
    said: list[str] = []
    limits = DeployLimits(watch=0.3)
    deploy.deploy(NAME, version, root=root, keep=False, limits=limits, verify=False, trials=trials, log=said.append)
    return "\n".join(said)


def test_the_worker_s_log_has_the_ids_of_the_gateway_s(root: Path, gateway: RunningGateway) -> None:
    with gateway.callers(CALL_RATE) as answers:
        until(lambda: answers, 10)
    request_id = answers[0].headers["x-prediction-id"]
    predictions, log = launch.predictions(root) / NAME, root / RUNNING / ACCESS_LOG

    def is_logged() -> bool:
        return log.is_file() and request_id in log.read_text()

    until(is_logged, 5)  # Envoy writes it every second
    until(lambda: any(row["request_id"] == request_id for row, _ in segments.read(predictions)), 5)
    (row,) = [row for row, _ in segments.read(predictions) if row["request_id"] == request_id]
    (line,) = [line for line in map(json.loads, log.read_text().splitlines()) if line["request_id"] == request_id]
    assert row["trace_id"] == line["trace_id"] and len(row["trace_id"]) == 32


def test_a_shadow_gets_copies_of_the_requests(root: Path, gateway: RunningGateway) -> None:
    with gateway.callers(CALL_RATE) as answers:
        said = go(root, "1.1", Shadow(1.0, length=LENGTH))
    assert "  100 images: agreement 100.0% " in said
    seen = versions(answers)
    switch = seen.index("1.1")
    assert seen[:switch] == ["1.0"] * switch and switch >= 100 and set(seen) == {"1.0", "1.1"}


def test_a_canary_answers_its_share_and_then_all(root: Path, gateway: RunningGateway) -> None:
    with gateway.callers(CALL_RATE) as answers:
        said = go(root, "1.1", Canary(0.5, length=LENGTH))
        until(lambda: versions(answers)[-5:] == ["1.1"] * 5, 10)
    assert "  100 images: agreement 100.0% " in said and "not answered: 0 of 100" in said
    seen = versions(answers)
    start = seen.index("1.1")
    assert 0.3 < seen[start : start + 200].count("1.1") / 200 < 0.7 and set(seen) == {"1.0", "1.1"}


def test_what_a_canary_does_not_answer_the_live_version_does(root: Path, gateway: RunningGateway) -> None:
    with gateway.callers(CALL_RATE) as answers, ThreadPoolExecutor(1) as pool:
        trial = pool.submit(go, root, "3.0", Canary(0.5, length=Length(minutes=2.0)))
        until(lambda: "3.0" in versions(answers), 60)
        (root / "fail").touch()
        with pytest.raises(DeployError, match=r"canary failed: it is worse than 1\.0 \(not answered: "):
            trial.result()
        end = len(answers)
        until(lambda: len(answers) > end + 20, 10)
    assert set(versions(answers)) == {"1.0", "3.0"} and set(versions(answers)[end:]) == {"1.0"}
    with Client(root=root) as client:
        assert [status.version for status in client.versions(NAME)] == ["1.0"]
