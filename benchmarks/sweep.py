"""Which settings TorchServe is fastest with: each is held against what is served, both on the machine at once.

    python -m benchmarks.sweep               every setting, about 15 minutes on 2 cores
    python -m benchmarks.sweep --rounds 9    steadier

Batch size, batch delay, workers and threads, JVM options and the front end's threads, each measured with `wrk` at 1, 16
and 64 connections of small images and at 16 of large ones, against the same network as `benchmarks.serving`. A server
with the settings of today stands beside one with another setting; one idles while the other is loaded, in turns of
seconds, so that a machine that changes its pace changes both: what counts is the ratio of the two. The first row is the
same settings twice, and shows what a ratio is worth. What is served stands in `serving.model_config.DEFAULTS`,
`serving.shares` and config.properties. The last line is one JSON document.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import bodies, closed_loop, servers, trained
from benchmarks.result import Origin
from benchmarks.servers import NotMeasured, Running
from benchmarks.serving import DRAWN
from handlers.atomic import write_json
from serving import archive, model_config, ports
from serving.shares import Shares

RESULT, WORK = Path("benchmarks/results/sweep.json"), Path("runs/bench-sweep")
MODEL = "bench"
APART = 500  # between the ports of the two servers
# What is measured: images of which size, at how many connections, and how many times the seconds of one load: a load is
# to answer all connections several times over
LOADS = {
    "1": (bodies.SIZES[0], 1, 1),
    "16": (bodies.SIZES[0], 16, 2),
    "64": (bodies.SIZES[0], 64, 3),
    "large": (bodies.SIZES[-1], 16, 4),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One way to serve: settings of the archive, lines of config.properties, options of Java."""

    title: str
    archive: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    java: str = ""


def settings(cores: int) -> list[Setting]:
    """Return what is compared; the first is what is served itself."""
    found = [Setting("as served, twice")]
    if cores > 1:
        found.append(Setting(f"1 worker x {cores} threads", ("minWorkers=1",)))
    found.append(Setting(f"{cores + 1} workers x 1 thread", (f"minWorkers={cores + 1}",)))
    found += [Setting(f"batchSize {size}", (f"batchSize={size}",)) for size in (4, 16)]
    found += [Setting(f"maxBatchDelay {delay} ms", (f"maxBatchDelay={delay}",)) for delay in (0, 5)]
    found += [Setting(option, java=option) for option in ("-XX:+UseSerialGC", "-XX:+UseG1GC")]
    found.append(Setting("both of Java's compilers", java="-XX:TieredStopAtLevel=4"))
    found += [Setting(line, config=(line,)) for line in ("number_of_netty_threads=2", "netty_client_threads=1")]
    return found


def config_of(text: str, setting: Setting) -> str:
    """Return config.properties with what a setting adds."""
    (vmargs,) = [line for line in text.splitlines() if line.startswith("vmargs=")]
    more = [f"{vmargs} {setting.java}"] if setting.java else []  # in the place of what is served with
    return "\n".join([text, *more, *setting.config]) + "\n"


@dataclasses.dataclass(frozen=True, slots=True)
class Sweep:
    """What all comparisons share: the served run, its precision, seconds of one load, pairs of loads, and ports."""

    run: Path
    precision: str
    seconds: float
    rounds: int
    offset: int

    @contextlib.contextmanager
    def serve(self, setting: Setting, place: int) -> Iterator[Running]:
        """Run the server of a setting, in one of two places, until it has been asked some small images."""
        root = Path.cwd()
        folder = servers.empty(root / WORK / str(place))
        overrides = [*setting.archive, f"handler.precision={self.precision}"]
        archive.build(MODEL, "1.0", run=self.run, store=folder / "model_store", overrides=overrides, rehearse=False)
        config = config_of((root / "config.properties").read_text(), setting)
        with servers.torchserve(
            *(MODEL, folder, config, {"Content-Type": "image/jpeg"}),
            python=servers.own_python(), root=root, offset=self.offset + place * APART,
            environment=Shares.of_this_machine(1).environment(),
        ) as running:  # fmt: skip
            self.rate(running, "16")
            yield running

    def rate(self, running: Running, load: str) -> float:
        """Return the requests/s of one load, once what the last one left behind is answered."""
        size, connections, times = LOADS[load]
        paths = bodies.draw(size, DRAWN)
        running.ask(paths[0].read_bytes())
        done = closed_loop.run(
            running.url, paths, connections=connections, seconds=times * self.seconds, headers=running.headers
        )
        return round(done.requests_per_second, 1)

    def pairs(self, usual: Running, other: Running) -> dict[str, list[tuple[float, float]]]:
        """Return the requests/s of both at each load, as often as there are rounds; who goes first takes turns."""
        found: dict[str, list[tuple[float, float]]] = {}
        for load in LOADS:
            for number in range(self.rounds):
                order = (usual, other) if number % 2 else (other, usual)
                rates = {each.url: self.rate(each, load) for each in order}
                found.setdefault(load, []).append((rates[usual.url], rates[other.url]))
        return found


def row(title: str, pairs: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Any]:
    """Return the ratios of a setting to what is served at each load: median, lowest and highest."""
    ratios = {load: sorted(other / usual for usual, other in each) for load, each in pairs.items()}
    return {
        "title": title,
        "ratio": {load: round(statistics.median(each), 3) for load, each in ratios.items()},
        "low": {load: round(each[0], 3) for load, each in ratios.items()},
        "high": {load: round(each[-1], 3) for load, each in ratios.items()},
        "pairs": pairs,
    }


def show(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the table."""
    table = Table("setting", *LOADS, title="times the requests/s of what is served, by connections")
    for each in rows:
        table.add_row(each["title"], *(f"{each['ratio'][load]:.2f}" for load in LOADS))
    console.print(table)


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of loads")
    parser.add_argument("--seconds", type=float, default=1.0, help="of the shortest load, whole ones")
    parser.add_argument("--precision", default="bf16")
    options = parser.parse_args(arguments)
    origin = Origin("sweep", arguments)
    console = Console(width=120, markup=False, emoji=False)
    try:
        closed_loop.find_wrk()
        run = trained.run("resnet18", Path.cwd(), console.print)
        offset = ports.offset_of_environment()
    except (closed_loop.LoadError, trained.TrainingFailed, ports.PortError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sweep, rows = Sweep(run, options.precision, options.seconds, options.rounds, offset), []
    with sweep.serve(Setting("as served"), 0) as usual:
        for each in settings(len(os.sched_getaffinity(0))):
            try:
                with sweep.serve(each, 1) as other:
                    rows.append(row(each.title, sweep.pairs(usual, other)))
            except (NotMeasured, closed_loop.LoadError, ZeroDivisionError) as error:
                console.print(f"{each.title}: not measured: {error}")
                continue
            console.print(f"{each.title}: {rows[-1]['ratio']}", highlight=False)
    document = {
        "benchmark": "sweep",
        **origin.document(),
        "precision": options.precision,
        "seconds": options.seconds,
        "number_of_rounds": options.rounds,
        "shares": dataclasses.asdict(Shares.of_this_machine(1)),
        "archive": model_config.configure(()),
        "rows": rows,
    }
    show(rows, console)
    write_json(RESULT, document)
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
