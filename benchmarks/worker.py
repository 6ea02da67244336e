"""Measure how long a worker takes to start, and its memory after many requests.

    python -m benchmarks.worker                     5 starts, then 20,000 requests of small images; about 2 minutes
    python -m benchmarks.worker --requests 100000

Start-up lasts from the start of the slowest worker's process until TorchServe reports READY, golden images included.
Memory is the anonymous memory (private, not backed by a file) of the largest worker.
The last line is one JSON document.
"""

import contextlib
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from benchmarks import bench_runs
from benchmarks.harness import console, servers
from benchmarks.harness.servers import MODEL, Running
from benchmarks.result import Origin
from benchmarks.serving import DRAWN
from benchmarks.traffic import bodies, closed_loop
from serving.client import Client, ClientError
from serving.host.state import ServerState

RESULT, WORK = Path("benchmarks/results/worker.json"), Path("runs/bench-worker")
CONNECTIONS, STEP = 32, 5  # connections, seconds of one load
STARTS = 5
GOALS = {"start_seconds": 4.5, "anonymous_mb": 600.0}


def ready_after(folder: Path, timeout: float = 120.0) -> float:
    """Return the seconds from the start of a worker's process to READY, of the slowest worker in `folder`.

    Raises:
        NotMeasured: none is ready in time.
    """
    deadline = time.monotonic() + timeout
    ready: dict[int, float] = {}
    while time.monotonic() < deadline:
        state = ServerState.read(folder)
        with contextlib.suppress(ClientError, psutil.Error):
            if state is not None and _all_ready(state, ready):
                return max(ready.values())
        time.sleep(0.02)
    raise servers.NotMeasured(f"no worker is ready after {timeout:.0f} s")


def _all_ready(state: ServerState, ready: dict[int, float]) -> bool:
    """Add the age of each newly READY worker, by process id; return whether all are READY."""
    with Client.of_state(state) as client:
        status = client.describe(MODEL)
    for worker in status.workers:
        if worker.status == "READY" and worker.pid > 0:
            ready.setdefault(worker.pid, time.time() - psutil.Process(worker.pid).create_time())
    return status.ready


def anonymous(folder: Path) -> list[float]:
    """Return the anonymous memory of each worker in megabytes (2^20 bytes)."""
    state = ServerState.read(folder)
    assert state is not None
    with Client.of_state(state) as client:
        pids = [worker.pid for worker in client.describe(MODEL).workers]
    lines = [Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() for pid in pids]
    return [sum(int(line.split()[1]) for line in rollup if line.startswith("Anonymous:")) / 1024 for rollup in lines]


def grow(folder: Path, running: Running, paths: list[Path], target: int) -> list[dict[str, float]]:
    """Send `target` requests; return the memory of the largest worker before, between and after the loads."""
    requests = 0
    samples = [{"requests": 0.0, "anonymous_mb": round(max(anonymous(folder)), 1)}]
    while requests < target:
        load = closed_loop.run(running.url, paths, connections=CONNECTIONS, seconds=STEP, headers=running.headers)
        if load.refused or load.broken:
            raise servers.NotMeasured(f"{load.refused + load.broken} requests failed")
        requests += load.requests
        samples.append({"requests": float(requests), "anonymous_mb": round(max(anonymous(folder)), 1)})
        print(f"{requests:,} of {target:,} requests: {samples[-1]['anonymous_mb']} MB", file=sys.stderr)
    return samples


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write the result; 1 where a goal is missed."""
    parser = console.parser("worker", __doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--precision", default="bf16")
    options = parser.parse_args(arguments)
    origin = Origin("worker", arguments)
    root = Path.cwd()
    try:
        closed_loop.find_wrk()
        run = bench_runs.run("resnet18", root)
    except (closed_loop.LoadError, bench_runs.TrainingFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    paths = bodies.draw(bodies.SIZES[0], DRAWN)
    folder = root / WORK
    starts: list[float] = []
    memory: list[dict[str, float]] = []
    for number in range(1, STARTS + 1):
        server = servers.sightline(folder, run, [f"handler.precision={options.precision}"])
        with ThreadPoolExecutor(1) as pool:
            ready = pool.submit(ready_after, folder)
            with server as running:
                starts.append(round(ready.result(), 2))
                print(f"start {number} of {STARTS}: {starts[-1]:.2f} s", file=sys.stderr)
                if number == STARTS:
                    memory = grow(folder, running, paths, options.requests)
    seconds, megabytes, requests = statistics.median(starts), memory[-1]["anonymous_mb"], memory[-1]["requests"]
    print(f"process to READY: {seconds} s (goal {GOALS['start_seconds']}), median of {STARTS}")
    print(f"anonymous after {requests:,.0f} requests: {megabytes} MB (goal {GOALS['anonymous_mb']:g})")
    figures = {
        "precision": options.precision,
        "starts": starts,
        "start_seconds": seconds,
        "memory": memory,
        "anonymous_mb": megabytes,
        "requests": requests,
        "goals": GOALS,
    }
    return origin.publish(figures, RESULT, failed=any(figures[name] > goal for name, goal in GOALS.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
