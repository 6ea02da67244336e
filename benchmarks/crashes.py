"""Kill workers, the server, and deployments midway: which requests fail, and how long until everything is live again.

    python -m benchmarks.crashes                                    300 workers, 5 servers, each step once; 45 minutes
    python -m benchmarks.crashes --workers 10 --servers 1 --steps register switch
    python -m benchmarks.crashes --workers 0 --steps                servers only; the result keeps the other sections

Requests go through `serving.client`, 20 a second, with a deadline of 5 s. Everything is ended by kill -9. A third of
the workers die within milliseconds after a request was sent, while a batch is being gathered (for 50 ms here):
TorchServe never answers the requests of that batch. The last line is one JSON document.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from benchmarks.harness import console, small_server
from benchmarks.harness.small_server import MODEL
from benchmarks.result import Sections
from benchmarks.traffic.client_load import through_client
from serving import deploy, server
from serving.client import Client, ClientError
from serving.host import ports
from serving.lifecycle.deployment import DeployLimits
from serving.store.live import Live

RESULT, WORK = Path("benchmarks/results/crashes.json"), Path("runs/bench-crashes")
RATE, DEADLINE, WORKERS, GATHERING = 20.0, 5.0, 2, 50  # requests/s; seconds; workers; milliseconds of batch delay
VERSIONS = ("1.0", "2.0")
STEPS = ("verify", "changes", "register", "load", "compare", "scale", "switch", "watch", "commit", "drain")
GOALS = {"failed": 0, "ready_seconds": 6.0, "noticed_seconds": 3.0, "back_seconds": 20.0}
TIMEOUT = 60.0  # seconds, after which a worker or server counts as not restarted


def until(condition: Callable[[], object], timeout: float = TIMEOUT) -> float:
    """Wait until `condition()`; return the seconds that it took, or `timeout`, which exceeds every goal."""
    start = time.monotonic()
    while time.monotonic() - start < timeout:
        with contextlib.suppress(ClientError, psutil.Error):
            if condition():
                return time.monotonic() - start
        time.sleep(0.02)
    return timeout


def workers(root: Path, count: int, progress: Console) -> dict[str, Any]:
    """Kill `count` workers one after the other, each when all are READY."""
    small_server.prepare(root, VERSIONS[:1], [f"minWorkers={WORKERS}", f"maxBatchDelay={GATHERING}"])
    ready: list[float] = []
    with (
        small_server.serving(root, [f"{MODEL}=1.0"]),
        through_client(root, small_server.images(), rate=RATE, deadline=DEADLINE) as load,
        Client(root=root) as client,
        progress.status("killing workers ...") as status,
    ):
        for number in range(count):
            pids = [worker.pid for worker in client.describe(MODEL).workers]
            victim = psutil.Process(pids[number % len(pids)])
            if number % 3 == 0:
                load.request_sent.clear()
                load.request_sent.wait(1)
                time.sleep(0.005 + 0.01 * (number % 9) / 9)
            victim.kill()

            def replaced(pid: int = victim.pid) -> bool:
                model = client.describe(MODEL)
                return model.ready and all(worker.pid != pid for worker in model.workers)

            ready.append(until(replaced))
            status.update(f"{number + 1} of {count} workers killed, {len(load.errors)} requests failed")
            time.sleep(0.3)
    return {
        "killed": count,
        "aimed_at_gathering": -(-count // 3),
        **load.figures(),
        "repeated": sum(latency > DEADLINE / 4 for latency in load.latencies),
        "ready_seconds": round(statistics.median(ready), 2),
        "ready_slowest": round(max(ready), 2),
    }


@contextlib.contextmanager
def watcher(root: Path, *arguments: str) -> Iterator[None]:
    """Run `make watch` in a directory."""
    command = [sys.executable, "-m", "serving.watch", *arguments]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, env=_environment())
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(small_server.ROOT), "OMP_NUM_THREADS": "1"}


def _served(root: Path) -> tuple[str, list[str]]:
    """Return the default version, and all versions that are ready."""
    with Client(root=root, deadline=2.0) as client:
        ready = sorted(model.version for model in client.versions(MODEL) if model.ready)
        return client.describe(MODEL).version, ready


def servers(root: Path, count: int, progress: Console) -> dict[str, Any]:
    """Kill the whole server `count` times while a watcher runs; the same versions must be live again."""
    small_server.prepare(root, VERSIONS)
    restart, notice = [], []
    with small_server.serving(root, [f"{MODEL}=1.0"]), watcher(root), progress.status("killing the server ..."):
        deploy.deploy(MODEL, "2.0", root=root, limits=DeployLimits(watch=0.5), verify=False, log=lambda _: None)
        log = root / "logs" / "watch.log"
        until(log.exists)
        before = _served(root)
        with through_client(root, small_server.images(), rate=RATE, deadline=DEADLINE) as load:
            for _ in range(count):
                time.sleep(2)
                size = log.stat().st_size
                start = time.monotonic()
                small_server.kill(root)
                until(lambda size=size: log.stat().st_size > size)  # type: ignore[misc]
                notice.append(time.monotonic() - start)
                until(lambda: _served(root) == before)
                restart.append(time.monotonic() - start)
                time.sleep(2)
    return {
        "killed": count,
        "live": [before[0], *before[1]],
        "noticed_seconds": round(max(notice), 2),
        "back_seconds": round(max(restart), 2),
        "back_median": round(statistics.median(restart), 2),
        **load.figures(),
    }


def step(root: Path, name: str) -> dict[str, Any]:
    """Kill a deployment and the whole server at one of its steps; restart the server, and return the live version."""
    small_server.prepare(root, VERSIONS, ["minWorkers=1"])
    with small_server.serving(root, [f"{MODEL}=1.0"]):
        command = [sys.executable, "-u", "-m", "serving.deploy", MODEL, "2.0", "--watch", "1"]
        process = subprocess.Popen(command, cwd=root, env=_environment(), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == f"{name} ...":
                break
        process.kill()
        process.communicate()
        small_server.kill(root)
        server.start(root=root, offset=ports.offset_of_environment())
        default, ready = _served(root)
        with Client(root=root) as client:
            answer = client.predict(small_server.images(1)[0], MODEL).version
        recorded = Live.read(root).models[MODEL].version
    whole = default == answer == recorded and default in ready
    return {"step": name, "live": default, "ready": ready, "whole": whole}


def show(sections: Mapping[str, Any]) -> None:
    """Print the table, and a line for each step."""
    rows = []
    for name, title, median, slowest in (
        ("workers", "a worker", "ready_seconds", "ready_slowest"),
        ("servers", "the server, watched", "back_median", "back_seconds"),
    ):
        if row := sections.get(name):
            rows.append((title, row["killed"], f"{row['failed']} of {row['requests']:,}", row[median], row[slowest]))
    console.print_table("kill -9", ("", "times", "failed requests", "restarted after, s", "slowest, s"), rows)
    for row in sections.get("steps", []):
        print(f"everything, at {row['step']}: {row['live']} is live{'' if row['whole'] else ' (in part)'}")


def goals_met(sections: Mapping[str, Any]) -> bool:
    """Return whether the sections that were measured meet every goal."""
    worker, server = sections.get("workers", {"failed": 0}), sections.get("servers", {})
    times = {name: value for row in (worker, server) for name, value in row.items() if name in GOALS}
    times.pop("failed", None)  # requests fail while there is no server
    steps = all(row["whole"] for row in sections.get("steps", []))
    return steps and not worker["failed"] and all(value <= GOALS[name] for name, value in times.items())


def main() -> int:
    """Measure, print and write the result; 1 where a goal is missed."""
    parser = console.parser("crashes", __doc__)
    parser.add_argument("--workers", type=int, default=300)
    parser.add_argument("--servers", type=int, default=5)
    parser.add_argument("--steps", nargs="*", default=STEPS, choices=STEPS)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    progress, root = console.progress(), Path.cwd() / WORK
    sections = Sections("crashes", options.output, goals=GOALS, rate=RATE)
    if options.steps:
        sections.write("steps", [step(root, name) for name in options.steps])
    if options.servers:
        sections.write("servers", servers(root, options.servers, progress))
    if options.workers:
        sections.write("workers", workers(root, options.workers, progress))
    show(sections.figures)
    return sections.publish(failed=not goals_met(sections.figures))


if __name__ == "__main__":
    sys.exit(main())
