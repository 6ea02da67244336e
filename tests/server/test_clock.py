"""A real server whose clock is set back by an hour: no request fails, and metrics and prediction log go on."""

import datetime as dt
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from handlers.observation import segments
from serving import archive
from serving import server as server_module
from serving.lifecycle import exporter, launch
from tests.server.conftest import CLASSES, CONFIG, ROOT, export, free_offset
from tests.server.test_metrics import NAME, answered, calling, counted, samples
from tests.until import until

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
REQUESTS = 100
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime: apt-get install libfaketime"),
]


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a file with the offset of the clock of all processes that are started from now on."""
    file = tmp_path / "offset"
    file.write_text("+0\n")
    monkeypatch.setenv("LD_PRELOAD", str(LIBRARY))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(file))
    monkeypatch.setenv("FAKETIME_CACHE_DURATION", "1")  # second
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")  # as a clock that is set
    # The processes share a semaphore, which ends with the first of them: TorchServe's launcher would be that.
    command = ["sh", "-c", "printenv FAKETIME_SHARED; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        monkeypatch.setenv("FAKETIME_SHARED", first.stdout.readline().strip())
        yield file


@pytest.fixture
def home(clock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the directory of a server that logs each prediction, with its exporter, both on that clock."""
    root = tmp_path / "home"
    root.mkdir()
    shutil.copy(CONFIG, root)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run = export(root / "runs" / NAME, CLASSES[NAME]).parent
    settings = ["handler.precision=fp32", "handler.log=1.0", "minWorkers=2", "maxWorkers=2"]
    archive.build(NAME, "1.0", run=run, store=root / "model_store", overrides=settings, rehearse=False)
    server_module.start([NAME], root=root, offset=free_offset(33_000))
    try:
        with exporter.beside(root):
            until(lambda: samples(root), 60)
            yield root
    finally:
        server_module.stop(root=root)


def test_a_clock_that_is_set_back_fails_no_request(home: Path, clock: Path) -> None:
    with calling(home) as callers:
        until(lambda: answered(callers) > REQUESTS, 60)
        clock.write_text("-1h\n")
        until(lambda: any(is_set_back(row) for row in rows(home)), 60)
        before = answered(callers)
        until(lambda: answered(callers) > before + REQUESTS, 60)
    assert not sum(caller.lost for caller in callers)
    codes, classes = sum((one.codes for one in callers), Counter()), sum((one.classes for one in callers), Counter())
    assert {code for _, code in codes} == {"200", "400"}
    assert +counted(home, "sightline_requests_total", "code") == codes
    assert +counted(home, "sightline_predictions_total", "class") == classes
    assert samples(home)["sightline_up", frozenset()] == 1
    until(lambda: len(rows(home)) == classes.total(), 30)
    assert len({row["request_id"] for row in rows(home)}) == classes.total()


def is_set_back(row: Mapping[str, str]) -> bool:
    return dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(row["time"]) > dt.timedelta(minutes=55)


def rows(home: Path) -> list[dict[str, str]]:
    return [row for row, _ in segments.read(launch.predictions(home) / NAME)]
