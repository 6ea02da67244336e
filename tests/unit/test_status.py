"""The table of `make status`."""

import datetime as dt
import io

from rich.console import Console

from serving.model_status import ModelStatus, Worker
from serving.state import ServerState
from serving.status import Status, Version, show


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
