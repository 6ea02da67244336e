"""Closed-loop load: what wrk says is read as it is meant, and wrk sends what it is told to."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.traffic import closed_loop
from benchmarks.traffic.closed_loop import Load, LoadError
from tests.unit.answering_server import answering

SAID = {"requests": 400, "microseconds": 2_000_000, "refused": 40, "broken": 3, "timeouts": 2}
SAID |= {"p50": 1500, "p90": 2500, "p99": 9000, "max": 12000}
NEEDS_WRK = pytest.mark.skipif(shutil.which("wrk") is None, reason="no wrk: apt-get install wrk")


def test_a_refused_request_is_not_an_answer() -> None:
    load = Load.of_output(f"Running 2s test\n{json.dumps(SAID)}\n", processor_seconds=0.5)
    assert load.requests_per_second == 180 and load.generator_cores == 0.25
    assert (load.refused, load.broken) == (40, 5)
    assert (load.p50, load.p90, load.p99, load.longest) == (1.5, 2.5, 9.0, 12.0)


@pytest.mark.parametrize("text", ["", "nothing to read\n", '{"requests": 1}', json.dumps(SAID | {"microseconds": 0})])
def test_what_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(LoadError, match="wrk printed no figures"):
        Load.of_output(text, 0.0)


def test_without_wrk_the_way_to_install_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadError, match="apt-get install wrk"):
        closed_loop.run("http://127.0.0.1:1/", [], connections=1, seconds=1)


@NEEDS_WRK
def test_every_body_is_sent_whole_and_refusals_are_counted(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.body" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number, 0, 255]) * 1000)
    with answering(status=lambda number: 503 if number % 4 == 0 else 200) as server:
        load = closed_loop.run(server.url, files, connections=2, seconds=1, headers={"X-Test": "a: b"})
    assert load.requests > 20 and load.broken == 0
    assert 0.2 < load.refused / load.requests < 0.3
    assert {*server.bodies} == {file.read_bytes() for file in files}
    assert 0 < load.p50 <= load.p99 <= load.longest and 0 < load.generator_cores <= 1.2


@NEEDS_WRK
def test_no_server_is_an_error_not_a_rate_of_zero() -> None:
    with pytest.raises(LoadError, match=r"wrk (failed|printed no figures)"):
        closed_loop.run("http://127.0.0.1:1/", [], connections=1, seconds=1)
