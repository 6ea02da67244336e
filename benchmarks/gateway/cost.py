"""What does the gateway cost a request: time of the client, and processor time of the machine?

    python -m benchmarks.gateway.cost                              24 pairs; about 5 minutes
    python -m benchmarks.gateway.cost --pairs 4 --seconds 1

A node is asked by one connection, directly, through the gateway (TLS, key, rate, limits, log), and directly again, by
turns. Processor times are those of the node and of Envoy; the load generator is not in them. The last line is one JSON
document.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gateway import fleet
from benchmarks.gateway.fleet import Fleet
from benchmarks.gateway.kills import CODE
from benchmarks.harness import console
from benchmarks.result import Origin
from benchmarks.traffic import closed_loop
from benchmarks.traffic.closed_loop import LoadError

RESULT, WORK = Path("benchmarks/results/gateway_cost.json"), Path("runs/bench-gateway-cost")
WAYS = ("direct", "gateway", "again")
GOALS = {"median_milliseconds": 1.0, "cpu_milliseconds": 0.3}
RESAMPLES = 2000


def turn(running: Fleet, way: str, images: Sequence[Path], seconds: float) -> tuple[float, float]:
    """Return the median latency and the processor time of a request, in milliseconds.

    Raises:
        LoadError: a request failed.
    """
    url, headers = (running.url, running.headers) if way == "gateway" else running.direct()
    processes = [process for group in running.processes().values() for process in group]

    def spent() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    before = spent()
    load = closed_loop.run(url, images, connections=1, seconds=seconds, headers=headers)
    if load.refused or load.broken:
        raise LoadError(f"{way}: {load.refused} requests were refused, {load.broken} broken")
    return load.p50, 1000 * (spent() - before) / load.requests


def added(values: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Return the median of the differences of pairs, and its 95 % interval by resampling."""
    differences = np.asarray(values) - np.asarray(base)
    draws = np.random.default_rng(0).choice(differences, (RESAMPLES, len(differences)))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    return {"value": float(np.median(differences)), "low": float(low), "high": float(high)}


def measure(root: Path, pairs: int, seconds: float) -> dict[str, Any]:
    """Return the figures of one run."""
    with fleet.running(root, 1) as running:
        images = running.image_files()
        for way in WAYS:
            turn(running, way, images, seconds)  # warm-up
        turns: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for number in range(pairs):
            first = number % len(WAYS)
            for way in WAYS[first:] + WAYS[:first]:
                turns[way].append(turn(running, way, images, seconds))
    latency, cpu = ({way: [pair[place] for pair in turns[way]] for way in WAYS} for place in (0, 1))
    return {
        "pairs": pairs,
        "seconds": seconds,
        "median_milliseconds": {way: statistics.median(latency[way]) for way in WAYS},
        "cpu_milliseconds": {way: statistics.median(cpu[way]) for way in WAYS},
        "added_milliseconds": {way: added(latency[way], latency["direct"]) for way in WAYS[1:]},
        "added_cpu_milliseconds": {way: added(cpu[way], cpu["direct"]) for way in WAYS[1:]},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the result; 1 where a goal is missed."""
    parser = console.parser("cost", __doc__, "benchmarks.gateway")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn, whole ones")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    closed_loop.find_wrk()
    command_line = sys.argv[1:] if arguments is None else arguments
    origin = Origin("cost", command_line, code=CODE, package="benchmarks.gateway")
    row = measure(Path.cwd() / WORK, options.pairs, options.seconds)
    failed = row["added_milliseconds"]["gateway"]["value"] > GOALS["median_milliseconds"]
    failed |= row["added_cpu_milliseconds"]["gateway"]["value"] > GOALS["cpu_milliseconds"]
    return origin.publish({"goals": GOALS, **row}, options.output, failed=failed)


if __name__ == "__main__":
    sys.exit(main())
