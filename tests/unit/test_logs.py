"""The reason that a dead worker logged, also where TorchServe logs it after the death was seen."""

import threading
import time
from pathlib import Path

import pytest

from serving.host import logs

LINE = "2026-11-30T08:00:00,000 WARN W-9000-shapes_1.0-stderr - {}\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / logs.FOLDER).mkdir()
    return tmp_path / logs.FOLDER / "model_log.log"


def test_a_reason_that_is_logged_late_is_waited_for(tmp_path: Path, log: Path) -> None:
    mark = logs.Mark.now(tmp_path)
    writing = threading.Timer(0.5, log.write_text, [LINE.format("RuntimeError: the weights are of another network")])
    writing.start()
    assert mark.raised("shapes", "1.0") == "RuntimeError: the weights are of another network"
    writing.join()


def test_the_last_exception_of_a_chain_is_the_reason(tmp_path: Path, log: Path) -> None:
    mark = logs.Mark.now(tmp_path)
    log.write_text(LINE.format("KeyError: 'width'") + LINE.format("ValueError: the spec has no width"))
    start_time = time.monotonic()
    assert mark.raised("shapes", "1.0") == "ValueError: the spec has no width"
    assert time.monotonic() - start_time < 1, "no wait beyond a second look"


def test_a_worker_that_logged_nothing_has_no_reason(tmp_path: Path, log: Path) -> None:
    log.write_text(LINE.format("RuntimeError: of an earlier start"))
    mark = logs.Mark.now(tmp_path)
    with open(log, "a") as file:
        file.write(LINE.replace("shapes", "other").format("RuntimeError: of another model"))
    assert mark.raised("shapes", "1.0") == ""
