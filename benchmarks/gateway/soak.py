"""An hour of good, bad, aborted and slow requests at the gateway, with deaths and swaps: does anything grow or fail?

    python -m benchmarks.gateway.soak                  60 minutes
    python -m benchmarks.gateway.soak --minutes 6      the same at a tenth of the time between two events

Two nodes of a fleet, watched by `make watch`, get 20 % of the rate that one of them answered before. A worker is killed
every 5 minutes, another version deployed to both every 10, and a node killed every 20; each waits until all nodes are
READY. A good request fails without the answer of one of the versions within 5 seconds. Memory and the size of the logs
are sampled every 10 seconds; memory may be a tenth larger in the last quarter than in the second. The last line is one
JSON document.
"""

import asyncio
import contextlib
import itertools
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from rich.console import Console

from benchmarks.crashes import until
from benchmarks.gateway import fleet
from benchmarks.gateway.fleet import Fleet
from benchmarks.gateway.guests import Crowd, visiting
from benchmarks.gateway.kills import CODE, DEADLINE, NODES, READY_LIMIT, capacity, figures, kill_node, kill_worker
from benchmarks.harness import console, small_server
from benchmarks.harness.small_server import MODEL, Expected
from benchmarks.result import Origin
from benchmarks.traffic import background_load, closed_loop
from serving.fleet.deployment import FleetDeployment
from serving.fleet.reports import Reports

RESULT, WORK = Path("benchmarks/results/gateway_soak.json"), Path("runs/bench-gateway-soak")
VERSIONS, SHARE = ("1.0", "2.0"), 0.2  # of the rate of one node
MINUTES, WORKER, SWAP, NODE = 60.0, 5.0, 10.0, 20.0  # of the run; between two events of a kind
CROWD = Crowd(slow=20, idle=10, oversized=1)
BAD_RATE, ABORTED_RATE = 2.0, 2.0  # requests/s
SAMPLE = 10.0  # seconds
SIZES, GROWTH = ("nodes_mb", "gateway_mb", "logs_mb"), 1.1  # times


class Odd:
    """Requests that are wrong or broken off; `endings` counts the statuses, "aborted" those broken off."""

    def __init__(self, running: Fleet) -> None:
        self._running, self._ending = running, threading.Event()
        self.endings: Counter[str] = Counter()

    def bad(self) -> None:
        """Send a body that is no image, and a wrong key, by turns."""
        with self._running.session() as session:
            for number in itertools.count():
                if self._ending.wait(1 / BAD_RATE):
                    return
                wrong = {"Authorization": "Basic d3Jvbmc6d3Jvbmc="} if number % 2 else {}
                try:
                    status = str(session.post(self._running.url, content=b"no image", headers=wrong).status_code)
                except httpx.HTTPError as error:
                    status = type(error).__name__
                self.endings[status] += 1

    def aborted(self) -> None:
        """Send half of an image, or a whole one, and close the connection before the answer."""
        image = small_server.images(1)[0]
        lines = [f"POST /predictions/{MODEL} HTTP/1.1", "Host: localhost", f"Content-Length: {len(image)}"]
        lines += [f"{name}: {value}" for name, value in self._running.headers.items()]
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        context = ssl.create_default_context(cafile=self._running.certificate)
        for number in itertools.count():
            if self._ending.wait(1 / ABORTED_RATE):
                return
            asyncio.run(self._abort(context, head + (image if number % 2 else image[: len(image) // 2])))
            self.endings["aborted"] += 1

    async def _abort(self, context: ssl.SSLContext, data: bytes) -> None:
        port = httpx.URL(self._running.url).port
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("localhost", port, ssl=context)
            writer.write(data)
            await writer.drain()
            writer.transport.abort()

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Send them while the block runs."""
        threads = [threading.Thread(target=action) for action in (self.bad, self.aborted)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ending.set()
            for thread in threads:
                thread.join()


def sample(running: Fleet, root: Path) -> dict[str, float]:
    """Return the resident memory of the nodes and of the gateway, and the size of all logs, in MB."""
    sizes = {}
    for name, processes in running.processes().items():
        total = 0
        for process in processes:
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        sizes[f"{name}_mb"] = total / 1e6
    logs = 0
    for path in root.glob("**/logs/**/*"):
        with contextlib.suppress(OSError):
            logs += path.stat().st_size
    return {**sizes, "logs_mb": logs / 1e6}


def growth(samples: Sequence[float]) -> float:
    """Return the mean of the last quarter over that of the second one."""
    values, quarter = np.array(samples), max(1, len(samples) // 4)
    return float(values[-quarter:].mean() / values[quarter : 2 * quarter].mean())


class Events:
    """The deaths and swaps, each kind at its own times; `counts` has how many there were."""

    def __init__(self, running: Fleet, url: str, minutes: float) -> None:
        self._running, self._url = running, url
        scale = 60 * minutes / MINUTES  # seconds for a minute of the schedule
        self._every = {"worker": WORKER * scale, "swap": SWAP * scale, "node": NODE * scale}
        self._due = {kind: seconds / 2 for kind, seconds in self._every.items()}
        self._versions = itertools.cycle([*VERSIONS[1:], VERSIONS[0]])
        self.counts = Counter[str]()

    def run_due(self, seconds: float) -> None:
        """Carry out an event whose time has come, if there is one, and wait until all nodes are READY."""
        kind = next((kind for kind, due in self._due.items() if seconds >= due), None)
        if kind is None:
            return
        self._due[kind] += self._every[kind]
        node = self.counts[kind] % NODES
        if kind == "worker":
            kill_worker(self._running, node)
        elif kind == "node":
            kill_node(self._running, node)
        else:
            fleet_deployment = FleetDeployment(self._url, lambda _: None)
            fleet_deployment.deploy(MODEL, next(self._versions), self._running.nodes[0], verify=False)
        self.counts[kind] += 1
        until(lambda: all(map(self._running.is_ready, range(NODES))), READY_LIMIT)


def measure(root: Path, minutes: float, progress: Console) -> dict[str, Any]:
    """Return the figures of one run."""
    url, endings, samples = str(root / "desired"), Counter[str](), list[dict[str, float]]()
    with fleet.running(root, NODES, versions=VERSIONS, watched=True, desired=url) as running:
        images = small_server.images()
        expected = Expected.of(running.nodes[0], VERSIONS, images)
        until(lambda: len(Reports(url).read()) == NODES, READY_LIMIT)
        FleetDeployment(url, lambda _: None).deploy(MODEL, VERSIONS[0], running.nodes[0], verify=False)
        rate, odd, events = SHARE * capacity(running), Odd(running), Events(running, url, minutes)
        load = running.load(bodies=images, rate=rate, timeout=DEADLINE)
        with background_load.beside(**load) as answers, visiting(running, endings, CROWD), odd.beside():
            with progress.status("") as status:
                start = time.monotonic()
                while (seconds := time.monotonic() - start) < 60 * minutes:
                    samples.append({"seconds": round(seconds, 1), **sample(running, root)})
                    status.update(f"{seconds / 60:.0f} of {minutes:g} minutes, {dict(events.counts)}")
                    events.run_due(seconds)
                    threading.Event().wait(SAMPLE)
            threading.Event().wait(DEADLINE)
    return {
        "minutes": minutes,
        "nodes": NODES,
        "events": dict(events.counts),
        "rate": round(rate, 1),
        **figures(answers, expected),
        "others": {**endings, **odd.endings},
        "growth": {name: round(growth([row[name] for row in samples]), 3) for name in SIZES},
        "largest": {name: round(max(row[name] for row in samples), 1) for name in SIZES},
        "samples": [
            {name: round(value, 1) for name, value in row.items()} for row in samples[:: max(1, len(samples) // 100)]
        ],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the result; 1 where a request failed, or memory grew."""
    parser = console.parser("soak", __doc__, "benchmarks.gateway")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    closed_loop.find_wrk()
    command_line = sys.argv[1:] if arguments is None else arguments
    origin = Origin("soak", command_line, code=CODE, package="benchmarks.gateway")
    row = measure(Path.cwd() / WORK, options.minutes, console.progress())
    goals = {"failed": 0, "slowest": DEADLINE, "growth": GROWTH}
    memory = max(row["growth"]["nodes_mb"], row["growth"]["gateway_mb"])
    failed = row["failed"] > 0 or row["slowest"] > DEADLINE or memory > GROWTH
    return origin.publish({"goals": goals, **row}, options.output, failed=failed)


if __name__ == "__main__":
    sys.exit(main())
