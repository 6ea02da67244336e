"""What a worker costs: how long it takes to start, and how much memory it holds after many requests.

    python -m benchmarks.worker                     5 starts, then 20,000 requests of small images; about 2 minutes
    python -m benchmarks.worker --requests 100000

Start-up counts from the start of each worker's process until TorchServe says READY, golden images included, of the
slowest worker of each start. Memory is what is anonymous (private, not backed by a file), of the largest worker.
The last line is one JSON document.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil

from benchmarks import bodies, closed_loop, servers, trained
from benchmarks.result import Origin
from benchmarks.servers import Running
from benchmarks.serving import DRAWN
from handlers.atomic import write_json
from serving import archive, ports
from serving.client import Client, ClientError
from serving.state import ServerState

RESULT, WORK = Path("benchmarks/results/worker.json"), Path("runs/bench-worker")
MODEL, CONNECTIONS, STEP = "bench", 32, 5  # connections, seconds of one load
GOALS = {"start_seconds": 4.5, "anonymous_mb": 600.0}


def ready_after(folder: Path, timeout: float = 120.0) -> float:
    """Return the seconds from the start of a worker's process to READY, of the slowest worker in `folder`.

    Raises:
        NotMeasured: none is ready in time.
    """
    deadline = time.monotonic() + timeout
    seen: dict[int, float] = {}
    while time.monotonic() < deadline:
        state = ServerState.read(folder)
        try:
            if state is not None:
                with Client.of_state(state) as client:
                    status = client.describe(MODEL)
                for worker in status.workers:
                    if worker.status == "READY" and worker.pid > 0:
                        seen.setdefault(worker.pid, time.time() - psutil.Process(worker.pid).create_time())
                if status.ready:
                    return max(seen.values())
        except (ClientError, psutil.Error):
            pass
        time.sleep(0.02)
    raise servers.NotMeasured(f"no worker is ready after {timeout:.0f} s")


def anonymous(folder: Path) -> list[float]:
    """Return the anonymous memory of each worker in megabytes (2^20 bytes)."""
    state = ServerState.read(folder)
    assert state is not None
    with Client.of_state(state) as client:
        pids = [worker.pid for worker in client.describe(MODEL).workers]
    lines = [Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() for pid in pids]
    return [sum(int(line.split()[1]) for line in of if line.startswith("Anonymous:")) / 1024 for of in lines]


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write the result; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--precision", default="bf16")
    options = parser.parse_args(arguments)
    origin = Origin("worker", arguments)
    root, offset = Path.cwd(), ports.offset_of_environment()
    try:
        closed_loop.find_wrk()
        run = trained.run("resnet18", root)
    except (closed_loop.LoadError, trained.TrainingFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    paths = bodies.draw(bodies.SIZES[0], DRAWN)
    config, headers = (root / "config.properties").read_text(), {"Content-Type": "image/jpeg"}
    overrides = [f"handler.precision={options.precision}"]
    starts: list[float] = []
    memory: list[dict[str, float]] = []
    for number in range(1, options.starts + 1):
        folder = servers.empty(root / WORK)
        archive.build(MODEL, "1.0", run=run, store=folder / "model_store", overrides=overrides, rehearse=False)
        serve = partial(servers.torchserve, python=servers.own_python(), root=root, offset=offset)
        with ThreadPoolExecutor(1) as watching:
            started = watching.submit(ready_after, folder)
            with serve(MODEL, folder, config, headers) as running:
                starts.append(round(started.result(), 2))
                print(f"start {number} of {options.starts}: {starts[-1]:.2f} s", file=sys.stderr)
                if number == options.starts:
                    memory = grow(folder, running, paths, options.requests)
    document = {
        "benchmark": "worker",
        **origin.document(),
        "precision": options.precision,
        "starts": starts,
        "start_seconds": statistics.median(starts),
        "memory": memory,
        "anonymous_mb": memory[-1]["anonymous_mb"],
        "requests": memory[-1]["requests"],
        "goals": GOALS,
    }
    print(
        f"process to READY: {document['start_seconds']} s (goal {GOALS['start_seconds']}), median of {options.starts}"
    )
    after = f"anonymous after {document['requests']:,.0f} requests: {document['anonymous_mb']} MB"
    print(f"{after} (goal {GOALS['anonymous_mb']:g})")
    write_json(RESULT, document)
    print(json.dumps(document))
    return int(document["start_seconds"] > GOALS["start_seconds"] or document["anonymous_mb"] > GOALS["anonymous_mb"])


def grow(folder: Path, running: Running, paths: list[Path], wanted: int) -> list[dict[str, float]]:
    """Send so many requests, and return the memory of the largest worker before, in between and after."""
    sent = 0
    found = [{"requests": 0.0, "anonymous_mb": round(max(anonymous(folder)), 1)}]
    while sent < wanted:
        load = closed_loop.run(running.url, paths, connections=CONNECTIONS, seconds=STEP, headers=running.headers)
        if load.refused or load.broken:
            raise servers.NotMeasured(f"{load.refused + load.broken} requests failed")
        sent += load.requests
        found.append({"requests": float(sent), "anonymous_mb": round(max(anonymous(folder)), 1)})
        print(f"{sent:,} of {wanted:,} requests: {found[-1]['anonymous_mb']} MB", file=sys.stderr)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
