"""Kill workers and whole nodes behind the gateway: does any request fail, or wait longer than its deadline?

    python -m benchmarks.gateway.kills                                 2 nodes, 50 kills; about 15 minutes
    python -m benchmarks.gateway.kills --kills 4

Two nodes with two workers each, watched by `make watch`, get 30 % of the rate that one of them answered before. By
turns a worker and a whole node, its front end with all workers, are ended by kill -9, each when every node is READY. A
request fails without the right answer within 5 seconds. The last line is one JSON document.
"""

import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console

from benchmarks.crashes import until
from benchmarks.gateway import fleet
from benchmarks.gateway.fleet import Fleet
from benchmarks.harness import console, small_server
from benchmarks.harness.small_server import Expected
from benchmarks.result import Origin
from benchmarks.traffic import background_load, closed_loop
from benchmarks.traffic.open_loop import TimedAnswer, quantile

RESULT, WORK = Path("benchmarks/results/gateway_kills.json"), Path("runs/bench-gateway-kills")
CODE = ("serving", "deploy/gateway", "handlers")
NODES, WORKERS = 2, 2  # of each
SHARE, DEADLINE = 0.3, 5.0  # of the rate of one node; seconds
CAPACITY_SECONDS, CONNECTIONS, PAUSE = 10, 32, 0.5
READY_LIMIT = 120.0  # seconds


def capacity(running: Fleet) -> float:
    """Return the requests/s that the first node answers without the gateway."""
    url, headers = running.direct()
    load = closed_loop.run(
        url, running.image_files(), connections=CONNECTIONS, seconds=CAPACITY_SECONDS, headers=headers
    )
    return load.requests_per_second


def kill_worker(running: Fleet, node: int) -> None:
    """Kill a worker of a node."""
    psutil.Process(random.choice(running.workers(node))).kill()


def kill_node(running: Fleet, node: int) -> None:
    """Kill a node's front end and its workers."""
    small_server.kill(running.nodes[node])


def kill_all(running: Fleet, kills: Sequence[Callable[[int], None]], progress: Console) -> list[float]:
    """Carry out the kills, of the nodes by turns, each when all are READY; return the seconds until they were again."""
    seconds = []
    with progress.status("") as status:
        for number, kill in enumerate(kills):
            status.update(f"{number} of {len(kills)} kills")
            kill(number // 2 % NODES)
            threading.Event().wait(PAUSE)  # until TorchServe has noticed
            seconds.append(PAUSE + until(lambda: all(map(running.is_ready, range(NODES))), READY_LIMIT))
    return seconds


def figures(answers: Sequence[TimedAnswer], expected: Expected) -> dict[str, Any]:
    """Return what became of the requests; the latency counts from the scheduled time."""
    right = [answer for answer in answers if answer.status == 200 and expected.version_of(answer.number, answer.body)]
    latencies = [answer.latency for answer in right]
    return {
        "requests": len(answers),
        "failed": len(answers) - len(right),
        "silent": sum(not answer.status for answer in answers),
        "statuses": {
            str(status): count for status, count in sorted(Counter(answer.status for answer in answers).items())
        },
        "p50": round(statistics.median(latencies), 4),
        "p99": round(quantile(np.asarray(latencies), 0.99), 4),
        "slowest": round(max(latencies), 3),
    }


def measure(root: Path, kills: int, progress: Console) -> dict[str, Any]:
    """Return the figures of one run."""
    settings = [f"minWorkers={WORKERS}"]
    with fleet.running(root, NODES, settings=settings, watched=True) as running:
        images = small_server.images()
        expected = Expected.of(running.nodes[0], ["1.0"], images)
        until(lambda: all(map(running.is_ready, range(NODES))), READY_LIMIT)
        rate = capacity(running)
        before = running.counters()
        ways = (lambda node: kill_worker(running, node), lambda node: kill_node(running, node))
        actions = [ways[number % 2] for number in range(kills)]
        load = running.load(bodies=images, rate=SHARE * rate, timeout=DEADLINE)
        start = time.monotonic()
        with background_load.beside(**load) as answers:
            seconds = kill_all(running, actions, progress)
            threading.Event().wait(DEADLINE)
        lasted = time.monotonic() - start
        after = running.counters()
    return {
        "nodes": NODES,
        "kills": {"workers": kills - kills // 2, "nodes": kills // 2},
        "rate_of_one_node": round(rate, 1),
        "rate": round(SHARE * rate, 1),
        "seconds": round(lasted, 1),
        **figures(answers, expected),
        "ready_seconds": {"median": round(statistics.median(seconds), 2), "slowest": round(max(seconds), 2)},
        "envoy": {name: after[name] - before[name] for name in after},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the result; 1 where a request failed or was late."""
    parser = console.parser("kills", __doc__, "benchmarks.gateway")
    parser.add_argument("--kills", type=int, default=50, help="of workers and nodes by turns")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    closed_loop.find_wrk()
    command_line = sys.argv[1:] if arguments is None else arguments
    origin = Origin("kills", command_line, code=CODE, package="benchmarks.gateway")
    row = measure(Path.cwd() / WORK, options.kills, console.progress())
    failed = row["failed"] > 0 or row["slowest"] > DEADLINE
    return origin.publish({"goals": {"failed": 0, "slowest": DEADLINE}, **row}, options.output, failed=failed)


if __name__ == "__main__":
    sys.exit(main())
