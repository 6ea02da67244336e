"""Requests that TorchServe loses, because their worker dies while it gathers a batch: does the gateway get an answer?

    python -m benchmarks.gateway.lost                    until 100 were lost; about 20 minutes
    python -m benchmarks.gateway.lost --lost 5

Two nodes with one worker each gather a batch for 200 milliseconds. One request is sent at a time, and within that time
the worker of a node is ended by kill -9. If it was the one that gathers, TorchServe does not answer: after 1.5 seconds
the gateway asks the other node too. A request that took as long counts as lost. The last line is one JSON document.
"""

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console

from benchmarks.crashes import until
from benchmarks.gateway import fleet
from benchmarks.gateway.kills import CODE, DEADLINE, NODES, READY_LIMIT
from benchmarks.harness import console, small_server
from benchmarks.harness.small_server import Expected
from benchmarks.result import Origin

RESULT, WORK = Path("benchmarks/results/gateway_lost.json"), Path("runs/bench-gateway-lost")
GATHERING, EARLIEST, LATEST = 200, 0.03, 0.15  # milliseconds; seconds after the sending
MOST_TRIES, HEDGED = 5, 1.4  # times the number that is to be lost; seconds


def measure(root: Path, lost: int, progress: Console) -> dict[str, Any]:
    """Return the figures of one run."""
    statuses: Counter[str] = Counter()
    seconds: list[float] = []
    with (
        fleet.running(root, NODES, settings=["minWorkers=1", f"maxBatchDelay={GATHERING}"]) as running,
        running.session() as session,
        ThreadPoolExecutor(1) as pool,
        progress.status("") as status,
    ):
        image = small_server.images(1)[0]
        expected = Expected.of(running.nodes[0], ["1.0"], [image])

        def ask() -> str:
            start = time.monotonic()
            try:
                answer = session.post(running.url, content=image, timeout=DEADLINE)
            except httpx.HTTPError as error:
                return type(error).__name__
            finally:
                seconds.append(time.monotonic() - start)
            is_right = answer.status_code != 200 or expected.version_of(0, answer.content) == "1.0"
            return str(answer.status_code) if is_right else "wrong"

        times = 0
        for number in range(MOST_TRIES * lost):
            until(lambda: all(map(running.is_ready, range(NODES))), READY_LIMIT)
            victim = psutil.Process(random.choice(running.workers(number % NODES)))
            asking = pool.submit(ask)
            threading.Event().wait(random.uniform(EARLIEST, LATEST))
            victim.kill()
            statuses[asking.result()] += 1
            times = sum(latency > HEDGED for latency in seconds)
            status.update(f"{times} of {lost} lost, {number + 1} workers killed")
            if times >= lost:
                break
    failed = statuses.total() - statuses["200"]
    figures = {"killed": statuses.total(), "lost": times, "failed": failed, "statuses": dict(sorted(statuses.items()))}
    return {**figures, "slowest": round(max(seconds), 3)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the result; 1 where a request failed or was late, or too few were lost."""
    parser = console.parser("lost", __doc__, "benchmarks.gateway")
    parser.add_argument("--lost", type=int, default=100)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    command_line = sys.argv[1:] if arguments is None else arguments
    origin = Origin("lost", command_line, code=CODE, package="benchmarks.gateway")
    row = measure(Path.cwd() / WORK, options.lost, console.progress())
    failed = row["failed"] > 0 or row["slowest"] > DEADLINE or row["lost"] < options.lost
    return origin.publish({"goals": {"failed": 0, "slowest": DEADLINE}, **row}, options.output, failed=failed)


if __name__ == "__main__":
    sys.exit(main())
