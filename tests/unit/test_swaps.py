"""What counts as lost, wrong and slow when versions are swapped under load."""

import json
from dataclasses import replace

import pytest

from benchmarks import swaps
from benchmarks.harness.small_server import Expected
from benchmarks.swaps import Swap, was_default
from benchmarks.traffic.open_loop import TimedAnswer

# 1.0 is live; 2.0 from 11 s (the call takes until 11.5), 1.0 again from 21 s.
SWAPS = [Swap("2.0", 10, 11, 11.5, 13), Swap("1.0", 20, 21, 21.5, 23)]
EXPECTED = Expected({"1.0": [{"a": 0.75, "b": 0.25}], "2.0": [{"a": 0.25, "b": 0.75}]})


def answer(version: str, sent: float, received: float, *, status: int = 200, header: str | None = None) -> TimedAnswer:
    body = json.dumps(EXPECTED.rows[version][0]).encode() if version in EXPECTED.rows else b'{"a": 0.5, "b": 0.5}'
    return TimedAnswer(0, sent, sent, received, status, header or version, body)


@pytest.mark.parametrize(
    ("version", "sent", "received", "right"),
    [
        ("1.0", 5, 6, True),
        ("2.0", 5, 6, False),
        ("1.0", 10.9, 15, True),  # sent before the switch, answered long after
        ("1.0", 11.2, 11.4, True),  # while the switch was asked for, either may answer
        ("2.0", 11.2, 11.4, True),
        ("1.0", 12, 12.1, False),
        ("2.0", 12, 12.1, True),
        ("2.0", 10, 11.1, True),
        ("2.0", 22, 23, False),
        ("1.0", 12, 21.1, True),
        ("3.0", 5, 25, False),
    ],
)
def test_a_version_is_right_where_it_was_the_default_meanwhile(
    version: str, sent: float, received: float, right: bool
) -> None:
    assert was_default("1.0", SWAPS, version, sent, received) is right


def test_a_deployment_that_failed_changes_no_default() -> None:
    failed = [replace(SWAPS[0], error="compare failed")]
    assert not was_default("1.0", failed, "2.0", 12, 13) and was_default("1.0", failed, "1.0", 12, 13)


def test_what_is_lost_or_wrong_is_counted_and_latencies_are_parted() -> None:
    answers = [answer("1.0", 1 + n / 100, 1.01 + n / 100) for n in range(100)]
    answers += [answer("2.0", 12 + n / 1000, 12.05 + n / 1000) for n in range(100)]
    found = swaps.figures(answers, SWAPS, EXPECTED, "1.0")
    assert (found["requests"], found["failed"], found["wrong_version"]) == (200, 0, 0)
    assert (found["during"]["requests"], found["between"]["requests"]) == (100, 100)
    assert (found["during"]["p99"], found["between"]["p99"], found["p99_ratio"]) == (50.0, 10.0, 5.0)
    assert found["switch_seconds"] == 0.5 and found["swap_seconds"] == 3.0

    lost = swaps.figures([*answers, answer("1.0", 2, 2.1, status=0)], SWAPS, EXPECTED, "1.0")
    assert lost["failed"] == 1 and lost["statuses"] == {"0": 1, "200": 200}
    assert (lost["between"]["requests"], lost["between"]["p50"], lost["between"]["p99"]) == (101, 10.0, 10.0)
    refused = [answer("1.0", 3, 3.001, status=503)] * 2  # quick refusals count as the longest latency of the run
    lost = swaps.figures([*answers, *refused], SWAPS, EXPECTED, "1.0")
    assert lost["between"]["p99"] == 50.0 == lost["slowest_ms"]
    nothing = swaps.figures(refused, SWAPS, EXPECTED, "1.0")
    assert nothing["failed"] == 2 and not swaps.goals_met({"rate": 50.0, **nothing})
    for wrong in (answer("2.0", 2, 2.1), answer("neither", 2, 2.1, header="1.0"), answer("1.0", 2, 2.1, header="2.0")):
        assert swaps.figures([*answers, wrong], SWAPS, EXPECTED, "1.0")["wrong_version"] == 1


def test_latencies_are_told_for_each_step_of_a_deployment() -> None:
    steps = [replace(SWAPS[0], steps=[("load", 10.0), ("drain", 12.0)]), replace(SWAPS[1], steps=[("load", 20.0)])]
    answers = [
        answer("1.0", sent, sent + seconds) for sent, seconds in ((9.9, 5), (10, 1), (11.9, 2), (12, 3), (20, 4))
    ]
    found = swaps.figures(answers, steps, EXPECTED, "1.0")["steps"]
    assert {name: (part["requests"], part["slowest"]) for name, part in found.items()} == {
        "load": (3, 4000.0),
        "drain": (1, 3000.0),
    }
