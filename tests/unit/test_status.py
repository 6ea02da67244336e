"""The table of `make status`."""

import datetime as dt
import io
import os

from rich.console import Console

from serving.client.model_status import ModelStatus, Worker
from serving.host.state import ServerState
from serving.status import Status, Version, _version, show


def test_the_memory_of_a_worker_is_measured_at_once() -> None:
    worker = Worker("9000", "READY", os.getpid(), 0, dt.datetime.now(dt.UTC))
    found = _version(ModelStatus("m", "1.0", 1, 8, 0.0, 60.0, 0, (worker,)), default=True, for_rollback=False)
    assert found.memory == found.model.workers[0].memory > 10_000_000


def test_a_model_that_is_missing_is_named() -> None:
    page = io.StringIO()
    state = ServerState(1, 1, "http://127.0.0.1:8080", "unix:/a/socket", "http://127.0.0.1:8082", "key", "folder")
    found = Status(state, 1.0, 1, [], [("birds", "2.0")])
    show(found, Console(soft_wrap=True, file=page, width=80))
    assert page.getvalue().endswith("\nbirds 2.0 should be live and is not served (make watch retries it)\n")
    assert not found.healthy and found.document()["missing"] == [{"name": "birds", "version": "2.0"}]


def test_no_name_is_cut_where_nobody_says_how_wide_the_page_is() -> None:
    name = "a-model-with-a-long-name." * 2
    now = dt.datetime.now(dt.UTC)
    workers = tuple(Worker(str(number), "READY", 4_000_000 + number, 1, now) for number in range(8))
    model = ModelStatus(name, "2026.11.22", 8, 8, 0.0, 60.0, 0, workers)
    state = ServerState(1, 1, "http://127.0.0.1:8080", "unix:/a/socket", "http://127.0.0.1:8082", "key", "folder")
    page = io.StringIO()
    shown = Status(state, 1.0, 1, [Version(model, True, False, 1, 1.0)], [])
    show(shown, Console(soft_wrap=True, file=page, width=80))
    (line,) = [line for line in page.getvalue().splitlines() if name in line]
    assert "2026.11.22" in line and all(str(worker.pid) in line for worker in workers)
