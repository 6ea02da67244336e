"""A run of the serving benchmark: starts each row's server, checks its answers, loads it, and keeps what came of it."""

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from benchmarks import bodies, closed_loop, open_loop
from benchmarks.closed_loop import LoadError
from benchmarks.servers import NotMeasured, Running, top_1
from benchmarks.serving_rows import Bench, Row
from serving.shares import HUGE_PAGES

OPEN_SHARE, OPEN_CONNECTIONS = 0.7, 64  # of the saturated rate
COMPILING = 20  # seconds of load until torch.compile is through
SLOW = 3  # times as long
BUSY = 0.2  # cores
LEAST_AGREEMENT = 0.75  # of a row with our weights and preprocessing: precisions may differ where two classes are near


@dataclasses.dataclass(slots=True)
class Session:
    """One run of the benchmark: what is sent, for how long, and what came of it so far."""

    bench: Bench
    images: dict[str, list[Path]]  # by the name of the body
    labels: dict[str, list[str]]  # of the first images of each, as ours answers in process in fp32
    connections: Sequence[int]
    seconds: float
    open_seconds: float
    console: Console
    runs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    agreement: dict[str, float] = dataclasses.field(default_factory=dict)
    elsewhere: list[float] = dataclasses.field(default_factory=list)  # cores that others took before each row
    began: float = dataclasses.field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        self.console.print(f"{minutes:3d}:{seconds:02d} {text}", highlight=False)

    def measure(self, row: Row, number: int) -> None:
        """Measure one row in one round; what goes wrong is its reason, and ends that row alone."""
        if row.name in self.reasons and not any(run["row"] == row.name for run in self.runs):
            return  # what could not be had once is not tried again
        # No server of ours runs now: what is busy is somebody else, and takes from every figure that follows.
        self.elsewhere.append(psutil.cpu_percent(0.5) / 100 * (psutil.cpu_count() or 1))
        if self.elsewhere[-1] > BUSY:
            self.say(f"  others take {self.elsewhere[-1]:.1f} cores: these figures will be low")
        try:
            if row.start is None:
                self._inside(row, number)
                return
            with row.start(self.bench) as running:
                self._check(row, running)
                self._load(row, running, number)
        except (NotMeasured, LoadError, OSError, subprocess.SubprocessError) as error:
            self.reasons[row.name] = str(error)
            self.say(f"{row.title}: not measured: {error}")

    def _inside(self, row: Row, number: int) -> None:
        assert row.command is not None
        command = row.command(self.bench)
        variables = {**os.environ, "GLIBC_TUNABLES": HUGE_PAGES}
        done = subprocess.run(command, cwd=self.bench.root, env=variables, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise NotMeasured((done.stderr.strip().splitlines() or ["it failed"])[-1][:300])
        names = {paths[0].parent.name: body for body, paths in self.images.items()}
        for folder, found in json.loads(done.stdout.splitlines()[-1]).items():
            rate = found.pop("images_per_second")
            self._keep(row, number, names[folder], 0, {"requests_per_second": rate, **found})

    def _check(self, row: Row, running: Running) -> None:
        """Ask for a few labels, and refuse a row of our weights and preprocessing that answers otherwise."""
        same = []
        for body, expected in self.labels.items() if row.checked else ():
            for path, label in zip(self.images[body], expected, strict=False):
                same.append(top_1(running.ask(row.encoding.encode(path.read_bytes()))) == label)
        if not same:
            return
        self.agreement[row.name] = share = sum(same) / len(same)
        if row.shares and share < LEAST_AGREEMENT:
            raise NotMeasured(
                f"answers {sum(same)} of {len(same)} images as ours does in process: not the same network"
            )

    def _load(self, row: Row, running: Running, number: int) -> None:
        for body in self.images if row.full else list(self.images)[:1]:
            files = bodies.encode_all(self.images[body], row.encoding, self.bench.work / "bodies")
            if row.name == "stock-best" and self.bench.best.compiled and body == next(iter(self.images)):
                # torch.compile works while the first requests wait, batch size by batch size.
                closed_loop.run(running.url, files, connections=64, seconds=COMPILING, headers=running.headers)
                running.ask(files[0].read_bytes())
            warm = closed_loop.run(running.url, files, connections=8, seconds=1, headers=running.headers)
            # A slow server gets longer loads, in which more than what stands in its queue is answered.
            few = warm.requests_per_second * self.seconds < max(self.connections)
            seconds = SLOW * self.seconds if few else self.seconds
            for connections in self.connections:
                # The answer to this one comes when all that the last load left behind is done.
                running.ask(files[0].read_bytes())
                load = closed_loop.run(
                    running.url, files, connections=connections, seconds=seconds, headers=running.headers
                )
                self._keep(row, number, body, connections, dataclasses.asdict(load))
        if row.open:
            self._open(row, running, number)

    def _open(self, row: Row, running: Running, number: int) -> None:
        """Send the small body at a set share of the rate of the most connections."""
        body, most = next(iter(self.images)), max(self.connections)
        loads = [run for run in self.runs if (run["row"], run["round"]) == (row.name, number)]
        saturated = next(run for run in loads if run["body"] == body and run["connections"] == most)
        times = open_loop.schedule(OPEN_SHARE * saturated["requests_per_second"], self.open_seconds, seed=number)
        images = [row.encoding.encode(path.read_bytes()) for path in self.images[body]]
        running.ask(images[0])
        found = open_loop.run(running.url, images, times, connections=OPEN_CONNECTIONS, headers=running.headers)
        self.runs.append({"row": row.name, "round": number, "kind": "open", "body": body, **dataclasses.asdict(found)})
        late = ", the generator fell behind" if found.behind else ""
        self.say(f"  open loop, {found.rate:.0f}/s: median {found.p50:.1f} ms, p99 {found.p99:.1f} ms{late}")

    def _keep(self, row: Row, number: int, body: str, connections: int, found: dict[str, Any]) -> None:
        rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}
        at = {"row": row.name, "round": number, "kind": row.kind, "body": body, "connections": connections}
        self.runs.append(at | rounded)
        where = f"{connections} connections" if connections else "in process"
        failed = rounded.get("refused", 0) + rounded.get("broken", 0)
        more = f", {failed} failed" if failed else ""
        self.say(f"  {body}, {where}: {rounded['requests_per_second']:.1f}/s{more}")
