"""The watcher's decisions, before a server that describes itself as a test says; a real server is watched elsewhere."""

import contextlib
import http.server
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.host import lock
from serving.host.state import ServerState, created
from serving.store.live import Live, LiveModel
from serving.watch import COUNTED, FIRST_WAIT, GIVEN_UP, NO_ANSWER, NO_MANAGEMENT, STALL_LIMIT, Watch
from tests.until import until

NAME, VERSION = "hands", "1.0"


class FrontEnd(http.server.ThreadingHTTPServer):
    """Answers a ping, and describes one version of one model; `changes` holds the requests to change something."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.workers: list[tuple[str, int]] = []  # status and pid
        self.min_workers = 1
        self.pending = 0
        self.answered = {VERSION: 0.0}
        self.changes: list[str] = []

    def description(self) -> dict[str, Any]:
        """Return the version as the management API does."""
        worker = {"startTime": "2026-01-31T12:00:00.000Z", "memoryUsage": 0}
        constants = {"batchSize": 1, "maxBatchDelay": 0, "responseTimeout": 60, "startupTimeout": 120}
        return {
            **constants,
            "modelName": NAME,
            "modelVersion": VERSION,
            "minWorkers": self.min_workers,
            "jobQueueStatus": {"pendingRequests": self.pending},
            "workers": [
                {**worker, "id": str(9000 + number), "status": status, "pid": pid}
                for number, (status, pid) in enumerate(self.workers)
            ],
        }

    def metrics(self) -> str:
        """Return the counts of answers as the metrics address does."""
        return "".join(
            f'{COUNTED}{{model_name="{NAME}",model_version="{version}",hostname="h"}} {count}\n'
            for version, count in self.answered.items()
        )


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request for a `FrontEnd`."""

    server: FrontEnd

    def do_GET(self) -> None:
        """Answer what the watcher reads."""
        documents = {"/ping": {}, "/models": {"models": [{"modelName": NAME}]}}
        if self.path == "/metrics":
            self.answer(self.server.metrics())
        else:
            self.answer(json.dumps(documents.get(self.path, [self.server.description()])))

    def do_PUT(self) -> None:
        """Record a change."""
        self.server.changes.append(self.path)
        self.answer("{}")

    def answer(self, text: str) -> None:
        """Send a text with status 200."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the class has
        """Write nothing."""


class Clock:
    """The seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def front() -> Iterator[FrontEnd]:
    with FrontEnd() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def pids() -> Iterator[list[int]]:
    """Run idle processes, a front end and two workers, and return their ids."""
    children = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(3)]
    yield [child.pid for child in children]
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(tmp_path: Path, front: FrontEnd, pids: Sequence[int], clock: Clock) -> Iterator[Watch]:
    """A watcher of the front end, whose directory holds no archive."""
    (tmp_path / "model_store").mkdir()
    (tmp_path / "logs").mkdir()
    keys = tmp_path / "key_file.json"
    keys.write_text(json.dumps({name: {"key": "k"} for name in ("inference", "management", "API")}))
    known = ServerState(pids[0], created(pids[0]), front.url, front.url, front.url, str(keys), str(tmp_path / "t"))
    known.write(tmp_path)
    with contextlib.closing(Watch(tmp_path, clock=clock)) as watch:
        yield watch


@pytest.fixture
def look_after(watch: Watch, clock: Clock) -> Callable[[float], None]:
    """Return a function that has the watcher look after some seconds."""

    def look(seconds: float) -> None:
        clock.now += seconds
        watch.look()

    return look


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def end(pid: int) -> None:
    """Kill a child of this process, which stays as a zombie."""
    psutil.Process(pid).kill()
    until(lambda: not runs(pid), 10)


def test_a_worker_that_had_no_process_for_a_while_is_named_with_its_first_one(
    watch: Watch, front: FrontEnd, pids: Sequence[int], caplog: pytest.LogCaptureFixture
) -> None:
    for worker in (("READY", pids[1]), ("WORKER_STOPPED", -1), ("WORKER_STOPPED", -1), ("READY", pids[2])):
        assert not caplog.records
        front.workers = [worker]
        watch.look()
    replaced = f"a worker of {NAME} {VERSION} has ended (process {pids[1]}): replaced by {pids[2]}"
    assert [record.getMessage() for record in caplog.records] == [replaced]


def test_a_version_gets_the_workers_that_its_archive_asks_for(
    look_after: Callable[[float], None], front: FrontEnd, pids: Sequence[int]
) -> None:
    front.min_workers, front.workers = 2, [("READY", pids[1]), ("WORKER_STOPPED", -1)]
    look_after(0)
    look_after(GIVEN_UP - 0.1)
    assert front.changes == []
    look_after(0.2)
    queries = [path.partition("?")[2].partition("&synchronous")[0] for path in front.changes]
    assert queries == ["min_worker=3&max_worker=3", "min_worker=2&max_worker=3"]


def test_a_version_that_is_being_deployed_is_left_to_its_deployment(
    watch: Watch, look_after: Callable[[float], None], front: FrontEnd, pids: Sequence[int]
) -> None:
    front.min_workers, front.workers = 2, [("READY", pids[1]), ("WORKER_STARTED", -1)]
    with lock.deploying(watch.root):
        look_after(0)
        look_after(2 * GIVEN_UP)
        assert front.changes == []
        Live({NAME: LiveModel(VERSION)}).write(watch.root)  # live, another one is being deployed
        look_after(0.1)
        assert len(front.changes) == 2


def test_a_version_without_a_number_of_workers_gets_that_of_the_server(
    look_after: Callable[[float], None], front: FrontEnd, pids: Sequence[int]
) -> None:
    end(pids[1])
    front.min_workers, front.workers = 0, [("WORKER_STOPPED", pids[1])]
    look_after(0)
    look_after(GIVEN_UP + 0.1)
    assert [path.partition("min_worker=")[2][:1] for path in front.changes] == ["0", "1"]


def test_new_workers_that_start_slowly_get_twice_the_time_of_those_before(
    look_after: Callable[[float], None], front: FrontEnd
) -> None:
    front.min_workers, front.workers = 1, [("WORKER_STOPPED", -1)]
    times = []
    for second in range(120):
        before = len(front.changes)
        look_after(1.0)
        times += [second] * (len(front.changes) > before)
    pauses = [after - time for time, after in itertools.pairwise(times)]
    assert pauses == [2 * GIVEN_UP, 4 * GIVEN_UP, 8 * GIVEN_UP], "more than 60 seconds would be too long"


def test_workers_that_do_not_start_are_not_added_again_and_again(
    look_after: Callable[[float], None], front: FrontEnd, pids: Sequence[int]
) -> None:
    front.min_workers, front.workers = 2, [("READY", pids[1]), *[("WORKER_STOPPED", -1)] * 3]
    for _ in range(20):
        look_after(30.0)
    assert front.changes == []


def test_an_answer_to_a_request_without_a_version_counts_for_the_queue(
    look_after: Callable[[float], None], front: FrontEnd, pids: Sequence[int]
) -> None:
    front.workers, front.pending = [("READY", pids[1])], 1
    for count in range(4):
        front.answered = {VERSION: 7.0, "default": float(count)}
        look_after(STALL_LIMIT - 1)
    look_after(STALL_LIMIT - 1)
    assert runs(pids[1])
    look_after(2)
    until(lambda: not runs(pids[1]), 10)
    assert runs(pids[2])


def test_a_missing_version_is_loaded_after_growing_pauses(
    watch: Watch, look_after: Callable[[float], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Live({"petals": LiveModel("2.0")}).write(tmp_path)

    def failures(seconds: float) -> int:
        look_after(seconds)
        until(lambda: not watch.loader.versions, 10)
        return caplog.text.count("petals 2.0 should be live and still does not load")

    assert [failures(pause) for pause in (0, 9.9, 0.2, 19.9, 0.2)] == [0, 0, 1, 1, 2]
    assert caplog.text.count("petals 2.0 should be live and is not served") == 1


def test_a_version_that_loads_is_missing_and_is_not_loaded_twice(
    watch: Watch, front: FrontEnd, clock: Clock, tmp_path: Path
) -> None:
    Live({NAME: LiveModel(VERSION)}).write(tmp_path)
    front.workers = [("WORKER_STARTED", -1)]
    watch.loads.fail()
    clock.now += FIRST_WAIT + 0.1
    watch.loader.versions = frozenset({(NAME, VERSION)})
    watch.look()
    watch.loader.close()
    assert watch.loads.is_failing() and watch.loader.versions, "another load would have ended by now"
    watch.loader.versions = frozenset()
    watch.look()
    assert not watch.loads.is_failing()


@pytest.mark.parametrize(("pings", "patience"), [(True, NO_MANAGEMENT), (False, NO_ANSWER)])
def test_a_front_end_that_answers_a_ping_is_given_more_time(
    *, pings: bool, patience: float, look_after: Callable[[float], None], front: FrontEnd, pids: Sequence[int],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("serving.watch.DESCRIPTION_LIMIT", 0.1)
    monkeypatch.setattr("serving.watch.PING_LIMIT", 0.1)
    known = ServerState.read(tmp_path)
    assert known is not None
    nowhere = "http://127.0.0.1:9"
    inference = front.url if pings else nowhere
    replaced = ServerState(known.pid, known.created, inference, nowhere, nowhere, known.key_file, known.temporary)
    replaced.write(tmp_path)
    look_after(0.1)
    look_after(patience - 0.2)
    assert runs(pids[0])
    look_after(0.2)
    assert not runs(pids[0])


def test_a_server_that_does_not_start_is_started_after_growing_pauses(
    look_after: Callable[[float], None], pids: Sequence[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = ServerState.read(tmp_path)
    end(pids[0])

    def failures(seconds: float) -> int:
        look_after(seconds)
        return caplog.text.count("the server does not start: no archive in ")

    assert [failures(pause) for pause in (0, 0.9, 0.2, 1.9, 0.2)] == [1, 1, 2, 2, 3]
    assert ServerState.read(tmp_path) == known, "the next watcher tries it too"
