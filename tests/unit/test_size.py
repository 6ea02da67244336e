"""`make size`: the search of a rate within a latency goal, and of the settings that serve it best."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import size
from benchmarks.harness.servers import NotMeasured, Running
from benchmarks.size import Settings
from benchmarks.traffic import capacity
from benchmarks.traffic.capacity import Capacity
from benchmarks.traffic.open_loop import Latencies
from serving.errors import ServingError
from tests.unit.answering_server import answering


def server(limit: float, *, failures_from: float = float("inf")) -> Callable[[float], Latencies]:
    """Return the loads of a server whose p99 is 10 ms up to a rate of `limit`, and 1,000 ms above."""

    def load(rate: float) -> Latencies:
        return Latencies(
            rate=rate,
            requests=100,
            failures=int(rate > failures_from),
            p50=5.0,
            p99=10.0 if rate <= limit else 1000.0,
            longest=1000.0,
            lateness=0.1,
            waited=0,
            behind=False,
        )

    return load


@pytest.mark.parametrize("first", [3.0, 40.0, 300.0])
def test_a_capacity_is_near_the_highest_rate_within_the_goal(first: float) -> None:
    found = capacity.search(server(100.0), first, 50.0)
    assert 100 / capacity.FINEST**2 <= found.rate <= 100
    assert found.latencies is not None and found.latencies.p99 == 10.0


def test_failures_end_a_capacity_and_an_impossible_goal_has_none() -> None:
    assert capacity.search(server(1e9, failures_from=20.0), 10.0, 50.0).rate <= 20
    assert capacity.search(server(100.0), 10.0, 5.0) == Capacity(0.0, None)


def test_a_server_that_is_slower_than_the_goal_by_itself_is_not_loaded() -> None:
    with answering(stall=lambda number: 0.03) as server:
        assert capacity.measure(Running(server.url, {}), [b"a"], p99=10.0, seconds=1.0) == Capacity(0.0, None)
        assert len(server.bodies) == capacity.CALLS


def test_a_real_load_finds_a_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "LOADS", 3)
    with answering(stall=lambda number: 0.02) as server:
        found = capacity.measure(Running(server.url, {}), [b"a"], p99=2000.0, seconds=0.1)
    assert found.rate >= 20 and found.latencies is not None and found.latencies.failures == 0


def test_settings_are_varied_from_the_best_and_each_is_measured_once() -> None:
    rates = {"handler.precision=int8": 2.0, "batchSize=4": 1.03, "maxBatchDelay=5": 1.2, "minWorkers=1": 0.5}
    asked: list[Settings] = []

    def measure(settings: Settings) -> Capacity:
        asked.append(settings)
        rate = 100.0
        for setting in settings:
            rate *= rates.get(setting, 1.0)
        return Capacity(rate, None)

    present = ("handler.top_k=3",)
    best, measured = size.search(present, size.choices(["bf16", "fp32", "int8"], 2), measure)
    assert best == (*present, "handler.precision=int8", "maxBatchDelay=5"), "a gain of 3 % is noise"
    assert len(asked) == len(set(asked)) == len(measured) and asked[0] == present
    assert not any("batchSize=8" in settings or "handler.precision=auto" in settings for settings in asked)


def test_a_server_that_does_not_start_ends_the_search_only_with_the_present_settings() -> None:
    def measure(settings: Settings) -> Capacity:
        if settings == broken:
            raise NotMeasured("port 8080 is taken")
        return Capacity(100.0, None)

    broken: Settings = ("batchSize=4",)
    best, measured = size.search((), iter([["batchSize=4"]]), measure)
    assert best == () and measured[broken] == Capacity(0.0, None)
    with pytest.raises(NotMeasured, match="port 8080 is taken"):
        size.search(broken, iter([]), measure)


def test_a_server_that_runs_here_is_to_be_stopped_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("serving.host.state.running", lambda root: object())
    assert size.main(["birds", "--p99=50ms"]) == 1
    assert "make stop first" in capsys.readouterr().err


def test_a_default_is_left_out_and_another_value_takes_its_place() -> None:
    assert size.changed(("batchSize=4", "handler.top_k=3"), "batchSize=8") == ("handler.top_k=3",)
    assert size.changed(("batchSize=4",), "batchSize=16") == ("batchSize=16",)


@pytest.mark.parametrize(("text", "value"), [("50ms", 50.0), ("0.2s", 200.0), ("75", 75.0)])
def test_a_goal_is_a_time(text: str, value: float) -> None:
    assert size.milliseconds(text) == value


@pytest.mark.parametrize("text", ["", "fast", "-5ms", "0ms", "5 min"])
def test_another_goal_is_refused(text: str) -> None:
    with pytest.raises(ServingError, match=r"give a time such as 50ms or 0\.2s"):
        size.milliseconds(text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["no-such-run", "--p99=50ms"], "make train NAME=no-such-run"), (["x y", "--p99=50ms"], "x y")],
)
def test_a_model_that_cannot_be_sized_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert size.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and len(error.splitlines()) == 1


VERDICTS = [
    (0.0, None, "no setting keeps p99 within 50 ms"),
    (9.0, None, "the present settings stay"),
    (9.0, "2.0", "make deploy NAME=m VERSION=2.0"),
]


@pytest.mark.parametrize(("rate", "version", "says"), VERDICTS)
def test_the_verdict_says_what_to_do(rate: float, version: str | None, says: str) -> None:
    rows = [{"rate": rate}]
    figures = {"model": "m", "p99_ms": 50.0, "best": ["batchSize=4"], "ratio": 1.2, "version": version, "rows": rows}
    assert says in size.verdict(figures)
