"""Print the server's models, versions, workers, queues and memory.

python -m serving.status           a table
python -m serving.status --json    one JSON document
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from serving.client import Client, ModelStatus
from serving.console import WIDEST, table_console
from serving.errors import ServingError
from serving.host import state
from serving.host.state import ServerState
from serving.store.live import Live


@dataclasses.dataclass(frozen=True, slots=True)
class Version:
    """One version of a model on the server, with its role and the memory and uptime of its workers."""

    model: ModelStatus
    default: bool
    for_rollback: bool
    memory: int  # bytes resident, of all its workers
    uptime: float  # seconds since its youngest worker's start


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """A server that runs."""

    server: ServerState
    uptime: float  # seconds
    memory: int  # bytes resident, of the front end
    versions: list[Version]
    missing: list[tuple[str, str]]  # name and version of live models that are not served

    @property
    def healthy(self) -> bool:
        """Return whether it has a model, every worker of each is READY, and nothing is missing."""
        return bool(self.versions) and all(version.model.ready for version in self.versions) and not self.missing

    def document(self) -> dict[str, Any]:
        """Return the status as a JSON document."""
        server = dataclasses.asdict(self.server) | {"uptime": round(self.uptime, 1), "memory": self.memory}
        models = [
            dataclasses.asdict(version.model)
            | {
                "default": version.default,
                "kept": version.for_rollback,
                "memory": version.memory,
                "uptime": round(version.uptime, 1),
            }
            for version in self.versions
        ]
        missing = [{"name": name, "version": version} for name, version in self.missing]
        return {"running": True, "server": server, "models": models, "missing": missing}


def read(root: Path) -> Status | None:
    """Return the status of the server that runs in `root`, or None.

    Raises:
        ClientError: it runs and does not answer.
        ArchiveError: live.json is damaged.
    """
    root = root.resolve()
    running = state.running(root)
    process = running.process() if running is not None else None
    if running is None or process is None:
        return None
    live = Live.read(root).models
    versions = []
    with Client.of_state(running) as client:
        for name in client.models():
            default = client.describe(name).version
            previous = live[name].previous if name in live else None
            versions += [
                _version(status, status.version == default, status.version == previous)
                for status in client.versions(name)
            ]
    served = {(version.model.name, version.model.version) for version in versions}
    missing = sorted({(name, model.version) for name, model in live.items()} - served)
    return Status(running, time.time() - process.create_time(), _resident(process.pid), versions, missing)


def _version(model: ModelStatus, default: bool, for_rollback: bool) -> Version:
    start_time = max((worker.started.timestamp() for worker in model.workers), default=time.time())
    # TorchServe measures memory once a minute, and says 0 before that.
    workers = tuple(dataclasses.replace(worker, memory=_resident(worker.pid)) for worker in model.workers)
    memory = sum(worker.memory for worker in workers)
    uptime = max(0.0, time.time() - start_time)
    return Version(dataclasses.replace(model, workers=workers), default, for_rollback, memory, uptime)


def _resident(pid: int) -> int:
    with contextlib.suppress(psutil.Error, ValueError):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def show(status: Status, console: Console) -> None:
    """Print a table."""
    server = status.server
    title = (
        f"{server.inference}, up {_duration(status.uptime)}, front end {status.memory / 1e6:.0f} MB\n"
        f"management {server.management}, metrics {server.metrics}"
    )
    table = Table(title=title)
    for heading in ("model", "version", "", "workers", "state", "queue", "memory", "up", "processes"):
        table.add_column(heading, justify="right" if heading in ("workers", "queue", "memory", "up") else "left")
    for version in status.versions:
        table.add_row(*_row(version))
    # As wide as needed, also on a terminal: a shortened name cannot be copied.
    table.width = console.measure(table, options=console.options.update(max_width=WIDEST)).maximum
    console.print(table)
    for name, missing in status.missing:
        console.print(f"{name} {missing} should be live and is not served (make watch retries it)", style="red")


def _row(version: Version) -> tuple[str, ...]:
    """Return the cells of a version's row in the table."""
    model = version.model
    states = sorted({worker.status for worker in model.workers}) or ["no worker"]
    return (
        model.name,
        model.version,
        "default" if version.default else "kept" if version.for_rollback else "",
        str(len(model.workers)),
        ", ".join(states),
        str(model.pending),
        f"{version.memory / 1e6:.0f} MB",
        _duration(version.uptime),
        ", ".join(str(worker.pid) for worker in model.workers),
    )


def _duration(seconds: float) -> str:
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    return (
        f"{days:.1f} d"
        if days >= 2
        else f"{hours:.1f} h"
        if hours >= 2
        else f"{minutes:.0f} min"
        if minutes >= 2
        else f"{seconds:.0f} s"
    )


def main() -> int:
    """Print the status; return 0 on success, 1 on an error, 3 if no server runs."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.status", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    try:
        report = read(Path.cwd())
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        empty: dict[str, Any] = {"running": False, "server": None, "models": [], "missing": []}
        print(json.dumps(report.document() if report is not None else empty, indent=2, default=str))
    elif report is None:
        print("No server runs here: make serve")
    else:
        show(report, table_console())
    return 0 if report is not None else 3


if __name__ == "__main__":
    sys.exit(main())
