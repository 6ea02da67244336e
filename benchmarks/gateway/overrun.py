"""Three times as many requests as the server can answer: how many are answered, how fast are the others refused?

    python -m benchmarks.gateway.overrun                   60 seconds with the default queue, 20 with others; 4 minutes
    python -m benchmarks.gateway.overrun --seconds 6

A closed loop of 32 connections through the gateway gives the capacity. Then three times as many requests are sent
a second, whether or not earlier ones were answered, with several limits of requests under way: the best of them is what
the machine can answer under this load, whose generator and refusals take a part of the same cores. Afterwards single
requests are sent until ten in a row are answered within 0.2 seconds. The last line is one JSON document.
"""

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gateway import fleet
from benchmarks.gateway.fleet import Fleet
from benchmarks.gateway.kills import CODE, DEADLINE
from benchmarks.harness import console, small_server
from benchmarks.harness.small_server import Expected
from benchmarks.result import Origin
from benchmarks.traffic import background_load, closed_loop
from benchmarks.traffic.open_loop import quantile
from serving.gateway.nodes import QUEUE

RESULT, WORK = Path("benchmarks/results/gateway_overrun.json"), Path("runs/bench-gateway-overrun")
TIMES, CONNECTIONS, OTHERS = 3.0, 512, (16, 50)  # of the capacity; of the load; other limits
SHORTER, CAPACITY_SECONDS = 3, 8.0  # times shorter with other limits; seconds
GOALS = {"share_of_best": 0.85, "recovered_seconds": 5.0, "unanswered": 0}
QUICK, IN_A_ROW = 0.2, 10  # seconds; requests


def recovery(running: Fleet, image: bytes) -> float:
    """Return the seconds until ten requests in a row are answered quickly."""
    start, row = time.monotonic(), 0
    with running.session() as session:
        while row < IN_A_ROW:
            before = time.monotonic()
            answer = session.post(running.url, content=image)
            is_normal = answer.status_code == 200 and time.monotonic() - before < QUICK
            row = row + 1 if is_normal else 0
    return time.monotonic() - start


def overrun(root: Path, queue: int, seconds: float, rate: float | None) -> dict[str, Any]:
    """Return the figures with one limit; without a `rate` the capacity is measured before."""
    with fleet.running(root, 1, queue=queue) as running:
        images = small_server.images()
        expected = Expected.of(running.nodes[0], ["1.0"], images)
        if rate is None:
            load = closed_loop.run(
                running.url, running.image_files(), connections=32, seconds=CAPACITY_SECONDS, headers=running.headers
            )
            rate = TIMES * load.requests_per_second
        options = running.load(bodies=images, rate=rate, timeout=DEADLINE, connections=CONNECTIONS)
        start = time.monotonic()
        with background_load.beside(**options) as answers:
            threading.Event().wait(seconds)
        lasted = time.monotonic() - start
        back = recovery(running, images[0])
    served = [one for one in answers if one.status == 200 and expected.version_of(one.number, one.body)]
    refused = [one.received - one.sent for one in answers if one.status == 429]
    latencies = np.asarray([one.received - one.sent for one in served])
    return {
        "queue": queue,
        "seconds": round(lasted, 1),
        "offered": round(rate, 1),
        "sent": round(len(answers) / lasted, 1),
        "served": round(len(served) / lasted, 1),
        "refused": len(refused),
        "unanswered": len(answers) - len(served) - len(refused),
        "served_p99": round(quantile(latencies, 0.99), 3),
        "refused_p99": round(quantile(np.asarray(refused), 0.99), 3) if refused else None,
        "recovered_seconds": round(back, 2),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the result; 1 where a goal is missed."""
    parser = console.parser("overrun", __doc__, "benchmarks.gateway")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    closed_loop.find_wrk()
    command_line = sys.argv[1:] if arguments is None else arguments
    origin = Origin("overrun", command_line, code=CODE, package="benchmarks.gateway")
    own = overrun(Path.cwd() / WORK, QUEUE, options.seconds, None)
    rows = [own, *(overrun(Path.cwd() / WORK, queue, options.seconds / SHORTER, own["offered"]) for queue in OTHERS)]
    share = own["served"] / max(row["served"] for row in rows)
    failed = share < GOALS["share_of_best"] or own["recovered_seconds"] > GOALS["recovered_seconds"]
    failed |= own["unanswered"] > 0
    figures = {"goals": GOALS, "share_of_best": round(share, 3), "rows": rows}
    return origin.publish(figures, options.output, failed=failed)


if __name__ == "__main__":
    sys.exit(main())
