"""The highest rate of requests that a server answers within a latency goal."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

from benchmarks.harness.servers import Running
from benchmarks.traffic import open_loop
from benchmarks.traffic.open_loop import Latencies

FEWEST = 50  # requests of one load, so that its 99th percentile is not the slowest of a few
LONGEST = 20.0  # seconds of one load
FACTOR = 1.6  # between two rates, until one is too high and one is not
FINEST = 1.06  # the search ends when the lowest rate that is too high is at most this times the highest that is not
LOADS = 16  # of one search, at most
CALLS = 8  # one after the other, before the search
TIMEOUT = 10.0  # seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Capacity:
    """The highest rate in requests/s with all answers and a p99 within the goal, 0 if none was, and its latencies."""

    rate: float
    latencies: Latencies | None


def load(running: Running, bodies: Sequence[bytes], rate: float, seconds: float) -> Latencies:
    """Send requests of independent users at a rate, and return their latencies."""
    duration = min(LONGEST, max(seconds, FEWEST / rate))
    times = open_loop.schedule(rate, duration)
    return open_loop.run(running.url, bodies, times, headers=running.headers, timeout=TIMEOUT)


def measure(running: Running, bodies: Sequence[bytes], p99: float, seconds: float) -> Capacity:
    """Search the highest rate with a p99 of at most `p99` milliseconds, by loads of at least `seconds`."""
    calls = []
    for number in range(CALLS):
        start = time.perf_counter()
        running.ask(bodies[number % len(bodies)])
        calls.append(time.perf_counter() - start)
    if 1000 * min(calls) > p99:  # at no rate
        return Capacity(0.0, None)
    return search(lambda rate: load(running, bodies, rate, seconds), 1 / statistics.median(calls), p99)


def search(load: Callable[[float], Latencies], first: float, p99: float) -> Capacity:
    """Return the capacity by loads that begin with the rate `first`: up or down by `FACTOR`, then by halves.

    Below a tenth of `first` it is 0.
    """
    rate, high, best = first, float("inf"), Capacity(0.0, None)
    for _ in range(LOADS):
        latencies = load(rate)
        if latencies.failures or latencies.p99 > p99:  # from the scheduled time: a late generator counts too
            high = rate
        else:
            best = Capacity(round(rate, 2), latencies)
        if high <= max(FINEST * best.rate, first / 10):
            break
        if best.rate and high < float("inf"):
            rate = (best.rate * high) ** 0.5
        else:
            rate = rate / FACTOR if high < float("inf") else rate * FACTOR
    return best
