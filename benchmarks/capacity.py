"""How many machines does a load need? A simulation of queues, checked against the measurement of one machine.

    python -m benchmarks.capacity       seconds; reads benchmarks/results/serving.json and benchmarks/prices.yaml

A machine has one queue and a worker on each core, which takes up to `batchSize` waiting requests at once. A batch of n
takes a + b n seconds: a and b are those with which the simulated closed loop gives the measured rates of 16 and of 64
connections. The check is the open loop, which had no part in that: its median and its 99th percentile. Arrivals are
random (Poisson), and a gateway sends each machine an equal share. The last line is one JSON document.
"""

import dataclasses
import math
import random
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simpy
import yaml

from benchmarks.pages.markdown import load
from benchmarks.result import Origin

RESULTS, PRICES = Path("benchmarks/results"), Path("benchmarks/prices.yaml")
MODELS, BODY = ("ours-bf16", "ours-int8"), "200x200"
SECONDS, WARM_UP = 60.0, 5.0  # of simulated time
LIMIT = 0.25  # seconds that 99 % of the requests may take
DEMAND = 1_000_000 / 60  # requests/s
STEPS, SHARES = 12, 20  # halvings of a range, and twentieths of the best rate


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """Workers that take batches from one queue; a batch of n takes `fixed` + n `each_image` seconds."""

    workers: int
    batch: int
    fixed: float
    each_image: float

    def best(self) -> float:
        """Return the most requests/s."""
        return self.workers * self.batch / (self.fixed + self.batch * self.each_image)


class Run:
    """A simulated run of a machine; `latencies` are those of requests that were sent after the warm-up, in seconds."""

    def __init__(self, machine: Machine, seed: int = 0) -> None:
        self._clock, self._machine, self._random = simpy.Environment(), machine, random.Random(seed)
        self._queue = simpy.Store(self._clock)
        self.latencies: list[float] = []
        for _ in range(machine.workers):
            self._clock.process(self._work())

    def _work(self) -> Generator[Any, Any, None]:
        while True:
            batch = [(yield self._queue.get())]
            while self._queue.items and len(batch) < self._machine.batch:
                batch.append((yield self._queue.get()))
            yield self._clock.timeout(self._machine.fixed + len(batch) * self._machine.each_image)
            for start, answered in batch:
                if start > WARM_UP:
                    self.latencies.append(self._clock.now - start)
                answered.succeed()

    def _caller(self) -> Generator[Any, Any, None]:
        while True:
            answered = self._clock.event()
            yield self._queue.put((self._clock.now, answered))
            yield answered

    def _arrivals(self, rate: float) -> Generator[Any, Any, None]:
        while True:
            yield self._clock.timeout(self._random.expovariate(rate))
            yield self._queue.put((self._clock.now, self._clock.event()))

    def closed(self, connections: int) -> float:
        """Return the requests/s of callers that send the next request after each answer."""
        for _ in range(connections):
            self._clock.process(self._caller())
        self._clock.run(SECONDS)
        return len(self.latencies) / (SECONDS - WARM_UP)

    def open(self, rate: float) -> tuple[float, float]:
        """Return the median and the 99th percentile of the latencies at `rate` requests/s."""
        self._clock.process(self._arrivals(rate))
        self._clock.run(SECONDS)
        median, slow = np.quantile(self.latencies, (0.5, 0.99))
        return float(median), float(slow)


def fitted(rates: dict[int, float], workers: int, batch: int) -> Machine:
    """Return the machine whose closed loops have the measured rates, by their numbers of connections."""
    low, high = 0.0, workers * batch / rates[64]  # seconds of a full batch that do not depend on its size
    for _ in range(STEPS):
        fixed = (low + high) / 2
        machine = _with(fixed, rates[64], workers, batch)
        low, high = (low, fixed) if Run(machine).closed(16) < rates[16] else (fixed, high)
    return _with((low + high) / 2, rates[64], workers, batch)


def _with(fixed: float, best: float, workers: int, batch: int) -> Machine:
    return Machine(workers, batch, fixed, (workers * batch / best - fixed) / batch)


def usable(machine: Machine, limit: float = LIMIT) -> float:
    """Return the most requests/s, in twentieths of the best rate, at which 99 % are answered within `limit` seconds."""
    rates = [machine.best() * share / SHARES for share in range(1, SHARES)]
    return max((rate for rate in rates if Run(machine).open(rate)[1] <= limit), default=0.0)


def row(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the figures of one model."""
    workers, batch = document["machine"]["cores"], document["archive"]["batchSize"]
    cells = document["cells"][name][BODY]
    rates = {connections: cells[str(connections)]["requests_per_second"] for connections in (16, 64)}
    machine, measured = fitted(rates, workers, batch), document["open"][name]
    median, slow = (1000 * value for value in Run(machine).open(measured["rate"]))
    rate = usable(machine)
    return {
        "model": name,
        "rates": rates,
        "simulated_rates": {connections: round(Run(machine).closed(connections), 1) for connections in rates},
        "open": {"rate": measured["rate"], "p50": measured["p50"], "p99": measured["p99"]},
        "simulated_open": {"p50": round(median, 1), "p99": round(slow, 1)},
        "ratios": {"p50": round(median / measured["p50"], 2), "p99": round(slow / measured["p99"], 2)},
        "usable": round(rate, 1),
        "machines": math.ceil(DEMAND / rate),
    }


def main() -> int:
    """Simulate, and write the result."""
    origin = Origin("capacity", sys.argv[1:], code=("benchmarks/prices.yaml",))
    document = load(RESULTS / "serving.json")
    if document is None:
        print(f"error: {RESULTS / 'serving.json'} is missing: make bench BENCH=serving", file=sys.stderr)
        return 1
    rows = [row(document, name) for name in MODELS]
    prices: Sequence[dict[str, Any]] = yaml.safe_load(PRICES.read_text())
    costs = [
        {**price, "dollars": {figures["model"]: price["hour"] / (figures["usable"] * 3600) * 1e6 for figures in rows}}
        for price in prices
        if price["cores"] == document["machine"]["cores"]
    ]
    figures = {"limit_seconds": LIMIT, "measured": document["time"], "measured_on": document["machine"]}
    return origin.publish({**figures, "rows": rows, "prices": costs}, RESULTS / "capacity.json")


if __name__ == "__main__":
    sys.exit(main())
