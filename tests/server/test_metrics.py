"""The metrics of a real server against the answers that its callers got: workers killed, a swap, failing exporters."""

import contextlib
import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving import archive, deploy
from serving import server as server_module
from serving.client import Client
from serving.host import ports
from serving.host.state import ServerState
from serving.lifecycle import exporter, launch
from serving.lifecycle.deployment import DeployLimits
from tests.server.conftest import CLASSES, CONFIG, ROOT, export, free_offset, picture
from tests.until import until

NAME, BATCH, CALLERS = "digits", 4, 6
PAUSE = 0.05  # seconds of each caller between two requests: a version loads beside them
BODIES = [*(picture(seed) for seed in range(6)), b"no image", b"", picture(0)[:500]]
Counts = Counter[tuple[str, str]]  # of version and class, or version and code


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a server with two workers of digits 1.0, and the archive of 2.0."""
    root = tmp_path_factory.mktemp("metrics")
    shutil.copy(CONFIG, root)
    settings = [f"batchSize={BATCH}", "maxBatchDelay=20", "handler.precision=fp32", "maxRetryTimeoutInSec=1"]
    for seed, version in enumerate(("1.0", "2.0")):
        run = export(root / "runs" / version, CLASSES[NAME], seed).parent
        archive.build(
            NAME, version, run=run, store=root / "model_store", overrides=[*settings, "minWorkers=2"], rehearse=False
        )
    server_module.start([f"{NAME}=1.0"], root=root, offset=free_offset(26_000))
    yield root
    server_module.stop(root=root)


@pytest.fixture(scope="module")
def watched(home: Path) -> Iterator[Path]:
    """Run the exporter beside it, as `make watch` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with exporter.beside(home):
            until(lambda: samples(home), 60)
            yield home


def state(home: Path) -> ServerState:
    server = ServerState.read(home)
    assert server is not None
    return server


def samples(home: Path) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the samples of the exporter, none if it does not answer."""
    address = f"http://127.0.0.1:{ports.exporter_port(state(home).metrics)}/metrics"
    with contextlib.suppress(httpx.HTTPError):
        text = httpx.get(address, timeout=10, trust_env=False).text
        families = text_string_to_metric_families(text)
        return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}
    return {}


def counted(home: Path, name: str, label: str) -> Counts:
    """Return a counter by version and another label."""
    found: Counts = Counter()
    for (sample, labels), value in samples(home).items():
        if sample == name:
            found[dict(labels)["version"], dict(labels)[label]] += int(value)
    return found


class Caller:
    """Sends bodies until it is told to end, and counts the answers that came."""

    def __init__(self, home: Path) -> None:
        server = state(home)
        token = json.loads(Path(server.key_file).read_text())["inference"]["key"]
        self.address = f"{server.inference}/predictions/{NAME}"
        self.headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/jpeg"}
        self.classes: Counts = Counter()
        self.codes: Counts = Counter()
        self.lost = self.number = 0
        self.ended = threading.Event()

    def run(self) -> None:
        with httpx.Client(headers=self.headers, timeout=5, trust_env=False) as client:
            while not self.ended.wait(PAUSE):
                self.number += 1
                self._ask(client, BODIES[self.number % len(BODIES)])

    def _ask(self, client: httpx.Client, body: bytes) -> None:
        try:
            answer = client.post(self.address, content=body)
        except httpx.HTTPError:  # a killed worker's batch may get no answer at all
            self.lost += 1
            return
        version = answer.headers.get("model-version")
        if version is None:  # of the front end: the worker has died
            self.lost += 1
            return
        self.codes[version, str(answer.status_code)] += 1
        if answer.status_code == 200:
            self.classes[version, next(iter(answer.json()))] += 1


@contextlib.contextmanager
def calling(home: Path) -> Iterator[list[Caller]]:
    """Send requests from several callers while the block runs."""
    callers = [Caller(home) for _ in range(CALLERS)]
    with ThreadPoolExecutor(CALLERS) as pool:
        futures = [pool.submit(caller.run) for caller in callers]
        try:
            yield callers
        finally:
            for caller in callers:
                caller.ended.set()
        for future in futures:
            future.result()


def answered(callers: list[Caller]) -> int:
    return sum(sum(caller.codes.values()) for caller in callers)


def kill_a_worker(home: Path) -> None:
    with Client(root=home) as client:
        pid = client.describe(NAME).workers[0].pid
        psutil.Process(pid).kill()

        def replaced() -> bool:
            model = client.describe(NAME)
            return model.ready and all(worker.pid != pid for worker in model.workers)

        until(replaced, 60)


def test_counts_are_those_of_the_callers_with_workers_killed_and_a_swap_in_between(watched: Path) -> None:
    with calling(watched) as callers:
        until(lambda: answered(callers) > 100, 60)
        kill_a_worker(watched)
        until(lambda: answered(callers) > 300, 60)
        deploy.deploy(NAME, "2.0", root=watched, limits=DeployLimits(watch=0.5), verify=False, log=lambda _: None)
        kill_a_worker(watched)
        before = answered(callers)
        until(lambda: answered(callers) > before + 100, 60)
    classes, codes = sum((one.classes for one in callers), Counter()), sum((one.codes for one in callers), Counter())
    assert {version for version, _ in classes} == {"1.0", "2.0"} and len(codes) == 4
    for ours, name, label in (
        (classes, "sightline_predictions_total", "class"),
        (codes, "sightline_requests_total", "code"),
    ):
        theirs = counted(watched, name, label)
        # Two kills: of either batch, answers may have been counted that no caller got.
        assert not ours - theirs, f"{name} lacks {ours - theirs}"
        assert (theirs - ours).total() <= 2 * BATCH, f"{name} has {theirs - ours} more"
    found = samples(watched)
    assert found["sightline_up", frozenset()] == 1
    restarts = [value for (name, _), value in found.items() if name == "sightline_worker_restarts_total"]
    assert sum(restarts) == 2
    until(lambda: found_default(watched) == "2.0", 10)


def found_default(home: Path) -> str:
    """Return the version that is live and default, with its workers ready."""
    found = samples(home)
    labels = frozenset({"model": NAME, "version": "2.0"}.items())
    names = ("sightline_default_version", "sightline_live_version")
    if all(found.get((name, labels)) == 1 for name in names):
        assert found["sightline_workers", labels | {("state", "READY")}] == 2
        assert found["sightline_worker_memory_bytes", labels] > 1e8
        assert found["sightline_queue_requests", labels] >= 0
        return "2.0"
    return ""


@pytest.mark.slow
def test_no_request_fails_while_the_exporter_is_killed_and_scraped_or_its_folder_is_gone(watched: Path) -> None:
    folder = launch.observations(state(watched).temporary)
    with calling(watched) as callers:
        for _ in range(3):
            (process,) = exporters(watched)
            process.kill()
            until(lambda: samples(watched), 60)
        shutil.rmtree(folder)
        folder.touch()
        before = answered(callers)
        until(lambda: answered(callers) > before + 50, 60)
    assert not sum(caller.lost for caller in callers)
    assert {code for caller in callers for _, code in caller.codes} == {"200", "400"}
    # A worker that starts now cannot write, says so in one line, and answers.
    kill_a_worker(watched)
    with Client(root=watched) as client:
        (version,) = {client.predict(picture(), NAME).version for _ in range(10)}
    lines = (watched / "logs" / "model_log.log").read_text().splitlines()
    assert len([line for line in lines if f"{NAME} {version} is served without metrics: " in line]) == 1
    assert samples(watched)["sightline_up", frozenset()] == 1


def exporters(home: Path) -> list[psutil.Process]:
    """Return the running exporters of a directory."""
    running = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in running if exporter.MODULE in child.cmdline() and Path(child.cwd()) == home]
