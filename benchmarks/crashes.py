"""Kill workers, the server, and deployments in the middle: what callers lose, and how long until all is as it was.

    python -m benchmarks.crashes                                    300 workers, 5 servers, each step once; 45 minutes
    python -m benchmarks.crashes --workers 10 --servers 1 --steps register switch
    python -m benchmarks.crashes --workers 0 --steps                servers alone: what was found of the others stays

Callers ask through `serving.client` at 20 requests/s with a deadline of 5 s. Everything is ended by kill -9. A third of
the workers die within milliseconds after a request has left, while a batch is being gathered (for 50 ms here): what is
in it is never answered by TorchServe. The last line is one JSON document.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import small_server
from benchmarks.client_load import through_client
from benchmarks.sections import Sections
from benchmarks.small_server import MODEL
from serving import deploy, ports, server, state
from serving.client import Client, ClientError
from serving.deployment import Limits
from serving.live import Live

RESULT, WORK = Path("benchmarks/results/crashes.json"), Path("runs/bench-crashes")
RATE, DEADLINE, WORKERS, GATHERING = 20.0, 5.0, 2, 50  # requests/s; seconds; workers; milliseconds of batch delay
VERSIONS = ("1.0", "2.0")
STEPS = ("verify", "changes", "register", "load", "compare", "scale", "switch", "watch", "commit", "drain")
GOALS = {"failed": 0, "ready_seconds": 6.0, "noticed_seconds": 3.0, "back_seconds": 20.0}
TIMEOUT = 60.0  # seconds until something counts as not coming back


def until(done: Any, timeout: float = TIMEOUT) -> float:
    """Wait until `done()`; return the seconds that it took: `timeout`, beyond every goal, where it did not come."""
    began = time.monotonic()
    while time.monotonic() - began < timeout:
        with contextlib.suppress(ClientError, psutil.Error):
            if done():
                return time.monotonic() - began
        time.sleep(0.02)
    return timeout


def workers(root: Path, count: int, console: Console) -> dict[str, Any]:
    """Kill so many workers, one after the other, each when all are READY."""
    small_server.prepare(root, VERSIONS[:1], [f"minWorkers={WORKERS}", f"maxBatchDelay={GATHERING}"])
    ready: list[float] = []
    aimed = 0
    with (
        small_server.serving(root, [f"{MODEL}=1.0"]),
        through_client(root, small_server.images(), rate=RATE, deadline=DEADLINE) as seen,
        Client(root=root) as client,
        console.status("killing workers ...") as status,
    ):
        for number in range(count):
            alive = client.describe(MODEL).workers
            victim = psutil.Process(alive[number % len(alive)].pid)
            if number % 3 == 0:
                seen.sent.clear()
                seen.sent.wait(1)
                time.sleep(0.005 + 0.01 * (number % 9) / 9)
                aimed += 1
            victim.kill()

            def back(pid: int = victim.pid) -> bool:
                found = client.describe(MODEL)
                return found.ready and all(each.pid != pid for each in found.workers)

            ready.append(until(back))
            status.update(f"{number + 1} of {count} workers killed, {len(seen.errors)} requests failed")
            time.sleep(0.3)
    return {
        "killed": count,
        "aimed_at_gathering": aimed,
        **seen.figures(),
        "repeated": sum(each > DEADLINE / 4 for each in seen.latencies),
        "ready_seconds": round(statistics.median(ready), 2),
        "ready_slowest": round(max(ready), 2),
    }


@contextlib.contextmanager
def watcher(root: Path) -> Iterator[None]:
    """Run `make watch` in a directory."""
    process = subprocess.Popen([sys.executable, "-m", "serving.watch"], cwd=root, stdout=subprocess.DEVNULL, env=_env())
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(small_server.ROOT), "OMP_NUM_THREADS": "1"}


def _kill_server(root: Path) -> None:
    known = state.running(root)
    front = known.process() if known is not None else None
    if front is not None:
        tree = [front, *front.children(recursive=True)]
        for each in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(tree, timeout=1)


def _served(root: Path) -> tuple[str, list[str]]:
    with Client(root=root, deadline=2.0) as client:
        found = sorted(each.version for each in client.versions(MODEL) if each.ready)
        return client.describe(MODEL).version, found


def servers(root: Path, count: int, console: Console) -> dict[str, Any]:
    """Kill the whole server so many times beside the watcher; what was live before is to be live again."""
    small_server.prepare(root, VERSIONS)
    back, notice = [], []
    with small_server.serving(root, [f"{MODEL}=1.0"]), watcher(root), console.status("killing the server ..."):
        deploy.deploy(MODEL, "2.0", root=root, limits=Limits(watch=0.5), verify=False, say=lambda _: None)
        log = root / "logs" / "watch.log"
        until(log.exists)
        before = _served(root)
        with through_client(root, small_server.images(), rate=RATE, deadline=DEADLINE) as seen:
            for _ in range(count):
                time.sleep(2)
                told = log.stat().st_size
                began = time.monotonic()
                _kill_server(root)
                until(lambda told=told: log.stat().st_size > told)
                notice.append(time.monotonic() - began)
                until(lambda: _served(root) == before)
                back.append(time.monotonic() - began)
                time.sleep(2)
    return {
        "killed": count,
        "live": [before[0], *before[1]],
        "noticed_seconds": round(max(notice), 2),
        "back_seconds": round(max(back), 2),
        "back_median": round(statistics.median(back), 2),
        **seen.figures(),
    }


def step(root: Path, name: str) -> dict[str, Any]:
    """Kill a deployment, and the whole server, at one of its steps; start again and say what is live."""
    small_server.prepare(root, VERSIONS, ["minWorkers=1"])
    with small_server.serving(root, [f"{MODEL}=1.0"]):
        command = [sys.executable, "-u", "-m", "serving.deploy", MODEL, "2.0", "--watch", "1"]
        process = subprocess.Popen(command, cwd=root, env=_env(), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == f"{name} ...":
                break
        process.kill()
        process.communicate()
        _kill_server(root)
        server.start(root=root, offset=ports.offset_of_environment())
        default, ready = _served(root)
        with Client(root=root) as client:
            answered = client.predict(small_server.images(1)[0], MODEL).version
        recorded = Live.read(root).models[MODEL].version
    whole = default == answered == recorded and default in ready
    return {"step": name, "live": default, "ready": ready, "whole": whole}


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print a table."""
    table = Table(title="kill -9")
    for heading in ("", "times", "failed requests", "back after, s", "slowest, s"):
        table.add_column(heading, justify="right")
    for name, what, median, slowest in (
        ("workers", "a worker", "ready_seconds", "ready_slowest"),
        ("servers", "the server, watched", "back_median", "back_seconds"),
    ):
        if row := found.get(name):
            lost = f"{row['failed']} of {row['requests']:,}"
            table.add_row(what, str(row["killed"]), lost, str(row[median]), str(row[slowest]))
    console.print(table)
    for each in found.get("steps", []):
        console.print(f"everything, at {each['step']}: {each['live']} is live", "" if each["whole"] else "(a half!)")


def held(found: Mapping[str, Any]) -> bool:
    """Return whether every goal is met; a section that was not measured meets its own."""
    workers, servers = found.get("workers"), found.get("servers")
    return (
        all(each["whole"] for each in found.get("steps", []))
        and (workers is None or (not workers["failed"] and workers["ready_seconds"] <= GOALS["ready_seconds"]))
        and (
            servers is None
            or (
                servers["noticed_seconds"] <= GOALS["noticed_seconds"]
                and servers["back_seconds"] <= GOALS["back_seconds"]
            )
        )
    )


def main() -> int:
    """Measure, print and keep it; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.crashes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=300)
    parser.add_argument("--servers", type=int, default=5)
    parser.add_argument("--steps", nargs="*", default=STEPS, choices=STEPS)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    console, root = Console(stderr=True, markup=False, emoji=False), Path.cwd() / WORK
    sections = Sections("crashes", arguments.output, goals=GOALS, rate=RATE)
    if arguments.steps:
        sections.keep("steps", [step(root, each) for each in arguments.steps])
    if arguments.servers:
        sections.keep("servers", servers(root, arguments.servers, console))
    if arguments.workers:
        sections.keep("workers", workers(root, arguments.workers, console))
    found = sections.found
    show(found, Console(markup=False, emoji=False))
    print(json.dumps(sections.document))
    return int(not held(found))


if __name__ == "__main__":
    sys.exit(main())
