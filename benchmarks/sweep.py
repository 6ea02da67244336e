"""Compare settings of TorchServe with the present ones, both servers on the machine at once.

    python -m benchmarks.sweep               every setting, about 15 minutes on 2 cores
    python -m benchmarks.sweep --rounds 9    steadier

Batch size, batch delay, workers and threads, JVM options and the front end's threads, each measured with `wrk` at 1, 16
and 64 connections of small images and at 16 of large ones, with the same network as `benchmarks.serving`. A server with
the present settings runs beside one with another setting; one idles while the other is loaded, in turns of seconds, so
that a change of the machine's speed affects both: the result is the ratio of the two. The first row compares the
present settings with themselves, and shows the noise of a ratio. The present settings are those of
`serving.store.model_config.DEFAULTS`, `serving.host.resources` and config.properties. The last line is one JSON
document.
"""

import contextlib
import dataclasses
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import bench_runs
from benchmarks.harness import console, servers
from benchmarks.harness.servers import NotMeasured, Running
from benchmarks.result import Origin
from benchmarks.serving import DRAWN
from benchmarks.traffic import bodies, closed_loop
from serving.host import ports
from serving.host.resources import Resources
from serving.store import model_config

RESULT, WORK = Path("benchmarks/results/sweep.json"), Path("runs/bench-sweep")
APART = 500  # between the ports of the two servers
# Load -> size of the images, connections, and its duration in multiples of `seconds`: every connection must get several
# answers.
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
    """Return the settings to compare; the first is the present one."""
    settings = [Setting("as served, twice")]
    if cores > 1:
        settings.append(Setting(f"1 worker x {cores} threads", ("minWorkers=1",)))
    settings.append(Setting(f"{cores + 1} workers x 1 thread", (f"minWorkers={cores + 1}",)))
    settings += [Setting(f"batchSize {size}", (f"batchSize={size}",)) for size in (4, 16)]
    settings += [Setting(f"maxBatchDelay {delay} ms", (f"maxBatchDelay={delay}",)) for delay in (0, 5)]
    settings += [Setting(option, java=option) for option in ("-XX:+UseSerialGC", "-XX:+UseG1GC")]
    settings.append(Setting("both of Java's compilers", java="-XX:TieredStopAtLevel=4"))
    settings += [Setting(line, config=(line,)) for line in ("number_of_netty_threads=2", "netty_client_threads=1")]
    return settings


def config_of(text: str, setting: Setting) -> str:
    """Return config.properties with the lines of a setting."""
    (vmargs,) = [line for line in text.splitlines() if line.startswith("vmargs=")]
    java = [f"{vmargs} {setting.java}"] if setting.java else []  # overrides the present line
    return "\n".join([text, *java, *setting.config]) + "\n"


@dataclasses.dataclass(frozen=True, slots=True)
class Sweep:
    """The settings of all comparisons: run, precision, seconds of one load, pairs of loads, offset of ports."""

    run: Path
    precision: str
    seconds: float
    rounds: int
    offset: int

    @contextlib.contextmanager
    def serve(self, setting: Setting, place: int) -> Iterator[Running]:
        """Run the server of a setting, in one of two places, and warm it up with small images."""
        overrides = [*setting.archive, f"handler.precision={self.precision}"]
        options: dict[str, Any] = {"config": config_of((servers.ROOT / "config.properties").read_text(), setting)}
        options |= {"offset": self.offset + place * APART, "environment": Resources.of_this_machine(1).environment()}
        with servers.sightline(Path.cwd() / WORK / str(place), self.run, overrides, **options) as running:
            self.rate(running, "16")
            yield running

    def rate(self, running: Running, load: str) -> float:
        """Return the requests/s of one load, after the requests left in the queue by the last one."""
        size, connections, times = LOADS[load]
        paths = bodies.draw(size, DRAWN)
        running.ask(paths[0].read_bytes())
        result = closed_loop.run(
            running.url, paths, connections=connections, seconds=times * self.seconds, headers=running.headers
        )
        return round(result.requests_per_second, 1)

    def pairs(self, usual: Running, other: Running) -> dict[str, list[tuple[float, float]]]:
        """Return the requests/s of both at each load and round; they take turns in being measured first."""
        pairs: dict[str, list[tuple[float, float]]] = {}
        for load in LOADS:
            for number in range(self.rounds):
                order = (usual, other) if number % 2 else (other, usual)
                rates = {running.url: self.rate(running, load) for running in order}
                pairs.setdefault(load, []).append((rates[usual.url], rates[other.url]))
        return pairs


def row(title: str, pairs: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Any]:
    """Return the ratios of a setting to the present one at each load: median, lowest and highest."""
    ratios = {load: sorted(other / usual for usual, other in rates) for load, rates in pairs.items()}
    return {
        "title": title,
        "ratio": {load: round(statistics.median(values), 3) for load, values in ratios.items()},
        "low": {load: round(values[0], 3) for load, values in ratios.items()},
        "high": {load: round(values[-1], 3) for load, values in ratios.items()},
        "pairs": pairs,
    }


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table and write the result."""
    parser = console.parser("sweep", __doc__)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of loads")
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of the shortest load, in whole seconds")
    parser.add_argument("--precision", default="bf16")
    options = parser.parse_args(arguments)
    origin = Origin("sweep", arguments)
    try:
        closed_loop.find_wrk()
        run = bench_runs.run("resnet18", Path.cwd())
        offset = ports.offset_of_environment()
    except (closed_loop.LoadError, bench_runs.TrainingFailed, ports.PortError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sweep, rows = Sweep(run, options.precision, options.seconds, options.rounds, offset), []
    with sweep.serve(Setting("as served"), 0) as usual:
        for setting in settings(len(os.sched_getaffinity(0))):
            try:
                with sweep.serve(setting, 1) as other:
                    rows.append(row(setting.title, sweep.pairs(usual, other)))
            except (NotMeasured, closed_loop.LoadError, ZeroDivisionError) as error:
                print(f"{setting.title}: not measured: {error}", flush=True)
                continue
            print(f"{setting.title}: {rows[-1]['ratio']}", flush=True)
    cells = [(row["title"], *(f"{row['ratio'][load]:.2f}" for load in LOADS)) for row in rows]
    console.print_table("requests/s relative to the present settings, by connections", ("setting", *LOADS), cells)
    figures = {
        "precision": options.precision,
        "seconds": options.seconds,
        "number_of_rounds": options.rounds,
        "shares": dataclasses.asdict(Resources.of_this_machine(1)),
        "archive": model_config.configure(()),
        "rows": rows,
    }
    return origin.publish(figures, RESULT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
