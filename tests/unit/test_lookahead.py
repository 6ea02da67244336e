"""Work is submitted a bounded number of items ahead, and its results come in order."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from handlers.lookahead import map_ahead

LONGEST = 30.0  # seconds


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_items_are_taken_as_far_ahead_as_asked_for_and_no_further(executor: ThreadPoolExecutor, ahead: int) -> None:
    items = itertools.count()
    results = map_ahead(executor, str, items, ahead)
    assert [next(results) for _ in range(10)] == [str(number) for number in range(10)]
    assert next(items) == 10 + ahead


def test_a_later_result_that_is_ready_first_waits_for_its_turn(executor: ThreadPoolExecutor) -> None:
    second_ended = threading.Event()

    def name(number: int) -> str:
        if number == 1:
            second_ended.set()
        return str(number) if second_ended.wait(LONGEST) else "late"

    assert list(map_ahead(executor, name, range(4), 2)) == ["0", "1", "2", "3"]
    assert list(map_ahead(executor, name, [], 2)) == []


def test_an_error_comes_in_place_of_its_result(executor: ThreadPoolExecutor) -> None:
    results = map_ahead(executor, int, ["1", "2", "x", "4"], 3)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ValueError, match="'x'"):
        next(results)
    assert list(results) == []


@pytest.mark.parametrize("fails", [False, True], ids=["early exit", "error"])
def test_what_runs_is_waited_for_and_what_waits_never_begins(executor: ThreadPoolExecutor, fails: bool) -> None:
    begun, ended = set(), set()
    second_began, released = threading.Event(), threading.Event()

    def hold(number: int) -> None:
        begun.add(number)
        if number == 0:
            assert second_began.wait(LONGEST)
            if fails:
                raise OSError("the disk is gone")
        else:
            second_began.set()
            assert released.wait(LONGEST)
        ended.add(number)

    results = map_ahead(executor, hold, range(9), 6)
    timer = threading.Timer(0.5, released.set)
    timer.start()
    if fails:
        with pytest.raises(OSError, match="the disk is gone"):
            next(results)
    else:
        next(results)
        results.close()  # type: ignore[attr-defined]
    assert {1} <= begun - {0} == ended - {0} <= {1, 2}
    timer.join()
