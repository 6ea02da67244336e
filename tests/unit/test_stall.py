"""Whether workers that leave their queue as it is have had their time."""

import pytest

from serving.lifecycle.stall import Stall

PATIENCE, OWN = 8.0, 60.0  # seconds


@pytest.mark.parametrize(
    ("load", "ends"),  # of a core; seconds
    [(0.0, 8.5), (0.01, 8.5), (0.1, 68.5), (2.0, 68.5)],
)
def test_idle_workers_end_soon_and_computing_ones_after_their_own_time_out(load: float, ends: float) -> None:
    stall = Stall.start(0.0, 7.0, frozenset({1}), 100.0)
    now = 0.0
    while not stall.is_over(now, PATIENCE, OWN):
        now += 0.5
        stall.see(now, 100.0 + load * now, PATIENCE)
    assert now == ends


def test_a_worker_that_stops_computing_has_the_patience_from_then_on() -> None:
    stall = Stall.start(0.0, 7.0, frozenset({1}), 0.0)
    for second in range(20):
        stall.see(float(second), float(second), PATIENCE)
    assert not stall.is_over(27.0, PATIENCE, OWN) and stall.is_over(27.1, PATIENCE, OWN)


def test_an_answer_or_another_worker_ends_it() -> None:
    stall = Stall.start(0.0, 7.0, frozenset({1}), 0.0)
    assert stall.goes_on(7.0, frozenset({1}))
    assert not stall.goes_on(8.0, frozenset({1})) and not stall.goes_on(7.0, frozenset({2}))
