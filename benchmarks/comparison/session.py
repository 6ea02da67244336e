"""A run of the serving benchmark: start the server of each row, check its answers, load it, and collect the figures."""

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparison.rows import Bench, Row
from benchmarks.harness.servers import NotMeasured, Running, top_1
from benchmarks.result import busy_cores
from benchmarks.traffic import bodies, closed_loop, open_loop
from benchmarks.traffic.closed_loop import LoadError
from serving.host.resources import HUGE_PAGES

OPEN_SHARE, OPEN_CONNECTIONS = 0.7, 64  # share of the saturated rate
COMPILING = 20  # seconds of load until torch.compile has finished
SLOW = 3  # factor of the duration of loads for slow servers
BUSY = 0.2  # cores
MIN_AGREEMENT = 0.75  # for rows with our weights: precisions may differ between classes of similar probability


@dataclasses.dataclass(slots=True)
class Session:
    """One run of the benchmark: its images, the durations of loads, and the results so far."""

    bench: Bench
    images: dict[str, list[Path]]  # by the name of the body
    labels: dict[str, list[str]]  # our answers to the first images of each, in process in fp32
    connections: Sequence[int]
    seconds: float
    open_seconds: float
    runs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    agreement: dict[str, float] = dataclasses.field(default_factory=dict)
    elsewhere: list[float] = dataclasses.field(default_factory=list)  # cores of other programs before each row
    start: float = dataclasses.field(default_factory=time.monotonic)

    def log(self, text: str) -> None:
        """Print a line with the time since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self.start), 60)
        print(f"{minutes:3d}:{seconds:02d} {text}", flush=True)

    def measure(self, row: Row, number: int) -> None:
        """Measure one row in one round; an error becomes its reason, and ends only that row."""
        if row.name in self.reasons and not any(run["row"] == row.name for run in self.runs):
            return  # a row that failed in the first round is not tried again
        # No server runs now: busy cores are those of other programs, and lower all figures of the row.
        self.elsewhere.append(busy_cores())
        if self.elsewhere[-1] > BUSY:
            self.log(f"  other programs use {self.elsewhere[-1]:.1f} cores: these figures will be low")
        try:
            if row.start is None:
                self._inside(row, number)
                return
            with row.start(self.bench) as running:
                self._check(row, running)
                self._load(row, running, number)
        except (NotMeasured, LoadError, OSError, subprocess.SubprocessError) as error:
            self.reasons[row.name] = str(error)
            self.log(f"{row.title}: not measured: {error}")

    def _inside(self, row: Row, number: int) -> None:
        assert row.command is not None
        command = row.command(self.bench)
        variables = {**os.environ, "GLIBC_TUNABLES": HUGE_PAGES}
        process = subprocess.run(
            command, cwd=self.bench.root, env=variables, capture_output=True, text=True, timeout=600
        )
        if process.returncode:
            raise NotMeasured((process.stderr.strip().splitlines() or ["it failed"])[-1][:300])
        names = {paths[0].parent.name: body for body, paths in self.images.items()}
        for folder, figures in json.loads(process.stdout.splitlines()[-1]).items():
            rate = figures.pop("images_per_second")
            self._add(row, number, names[folder], 0, {"requests_per_second": rate, **figures})

    def _check(self, row: Row, running: Running) -> None:
        """Compare a few labels with ours, and refuse a row with our weights and preprocessing if too many differ."""
        same = []
        for body, expected in self.labels.items() if row.checked else ():
            for path, label in zip(self.images[body], expected, strict=False):
                same.append(top_1(running.ask(row.encoding.encode(path.read_bytes()))) == label)
        if not same:
            return
        self.agreement[row.name] = share = sum(same) / len(same)
        if row.shares and share < MIN_AGREEMENT:
            raise NotMeasured(
                f"answers {sum(same)} of {len(same)} images as ours does in process: not the same network"
            )

    def _load(self, row: Row, running: Running, number: int) -> None:
        for body in self.images if row.full else list(self.images)[:1]:
            files = bodies.encode_all(self.images[body], row.encoding, self.bench.work / "bodies")
            if row.name == "stock-best" and self.bench.best.compiled and body == next(iter(self.images)):
                # torch.compile blocks the first requests of each batch size.
                closed_loop.run(running.url, files, connections=64, seconds=COMPILING, headers=running.headers)
                running.ask(files[0].read_bytes())
            warm = closed_loop.run(running.url, files, connections=8, seconds=1, headers=running.headers)
            # A slow server gets longer loads, which must exceed its queue.
            few = warm.requests_per_second * self.seconds < max(self.connections)
            seconds = SLOW * self.seconds if few else self.seconds
            for connections in self.connections:
                # Answered when the queue of the last load is empty.
                running.ask(files[0].read_bytes())
                load = closed_loop.run(
                    running.url, files, connections=connections, seconds=seconds, headers=running.headers
                )
                self._add(row, number, body, connections, dataclasses.asdict(load))
        if row.open:
            self._open(row, running, number)

    def _open(self, row: Row, running: Running, number: int) -> None:
        """Send the small body at a fixed share of the rate at the highest number of connections."""
        body, highest = next(iter(self.images)), max(self.connections)
        loads = [run for run in self.runs if (run["row"], run["round"]) == (row.name, number)]
        saturated = next(run for run in loads if run["body"] == body and run["connections"] == highest)
        times = open_loop.schedule(OPEN_SHARE * saturated["requests_per_second"], self.open_seconds, seed=number)
        images = [row.encoding.encode(path.read_bytes()) for path in self.images[body]]
        running.ask(images[0])
        result = open_loop.run(running.url, images, times, connections=OPEN_CONNECTIONS, headers=running.headers)
        self.runs.append({"row": row.name, "round": number, "kind": "open", "body": body, **dataclasses.asdict(result)})
        late = ", the generator fell behind" if result.behind else ""
        self.log(f"  open loop, {result.rate:.0f}/s: median {result.p50:.1f} ms, p99 {result.p99:.1f} ms{late}")

    def _add(self, row: Row, number: int, body: str, connections: int, figures: dict[str, Any]) -> None:
        rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
        at = {"row": row.name, "round": number, "kind": row.kind, "body": body, "connections": connections}
        self.runs.append(at | rounded)
        place = f"{connections} connections" if connections else "in process"
        failed = rounded.get("refused", 0) + rounded.get("broken", 0)
        failures = f", {failed} failed" if failed else ""
        self.log(f"  {body}, {place}: {rounded['requests_per_second']:.1f}/s{failures}")
