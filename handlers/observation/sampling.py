"""Chooses the images of a worker that are measured, so that measuring takes a small share of its time.

A worker with time to spare measures all images. A busy one measures fewer, and each of them represents several: counted
by their weights they are an unbiased sample, since the choice does not depend on the images.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from handlers.requests.labels import Labels

SHARE = 0.005  # of the time in which the worker runs or rests, as processor time for measuring
LARGEST_CREDIT = 0.05  # seconds that are saved for later: after a pause, the next 100 to 200 images are all measured
SCHEDULING = Path("/proc/self/schedstat")  # nanoseconds in which the main thread ran, and in which it waited for a core
MOST_WAITING = 128  # images that are held until they are measured: with 224 pixels a side, 19 MB


def own_time() -> float:
    """Return the seconds that pass, without those in which the worker waited for a core that others used.

    On a crowded machine a share of all the time would be a large part of the time that the worker gets.
    """
    waited = 0
    with contextlib.suppress(OSError, ValueError, IndexError):  # a kernel without these statistics
        waited = int(SCHEDULING.read_text().split()[1])
    return time.perf_counter() - waited / 1e9


class Sampling:
    """The images that wait, and a credit of processor time to measure them.

    Args:
        clock: in seconds.
        cost: in seconds of processor time of the thread that measures.
    """

    def __init__(self, clock: Callable[[], float] = own_time, cost: Callable[[], float] = time.thread_time) -> None:
        self._clock, self._cost = clock, cost
        self._now, self._credit = clock(), LARGEST_CREDIT
        self._waiting: list[Labels] = []
        self._answered = self._represented = 0  # images, the first since the last `take`

    def add(self, answer: Labels) -> None:
        """Have an answered image wait, unless many do."""
        self._answered += 1
        if self._answered <= MOST_WAITING:
            self._waiting.append(answer)

    def take(self) -> list[Labels]:
        """Return the images that wait; they wait no longer."""
        waiting, self._waiting = self._waiting, []
        self._represented, self._answered = self._represented + self._answered, 0
        return waiting

    def measure(self, answers: list[Labels]) -> tuple[list[Labels], float]:
        """Return those of taken images that there was time to measure, and the number that each represents."""
        now, start, measured = self._clock(), self._cost(), []
        self._credit = min(self._credit + SHARE * (now - self._now), LARGEST_CREDIT)
        self._now, end = now, start + self._credit
        for answer in answers:
            if self._cost() >= end:
                break
            answer.measure()
            measured.append(answer)
        self._credit -= self._cost() - start
        if not measured:
            return [], 0.0
        weight, self._represented = self._represented / len(measured), 0
        return measured, weight
