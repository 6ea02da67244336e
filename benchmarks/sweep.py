"""Which settings TorchServe is fastest with: one is changed at a time, everything else stays as it is served.

    python -m benchmarks.sweep               every setting, two rounds, about 15 minutes on 2 cores
    python -m benchmarks.sweep --rounds 5    steadier

Batch size, batch delay, workers and threads, JVM options and the front end's threads, each measured with `wrk` at 1, 16
and 64 connections of small images and at 64 of large ones, against the same network as `benchmarks.serving`. Rounds go
over all settings in turn. What `serving.model_config.DEFAULTS`, `serving.shares` and config.properties say was chosen
from this table. The last line is one JSON document.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import bodies, closed_loop, servers, trained
from benchmarks.servers import NotMeasured
from benchmarks.serving import DRAWN
from handlers.atomic import write_json
from serving import archive, model_config, ports
from serving.shares import Shares
from training.train import machine, versions

RESULT, WORK = Path("benchmarks/results/sweep.json"), Path("runs/bench-sweep")
MODEL, CONNECTIONS = "bench", (1, 16, 64)
# What is measured: images of which size, at how many connections
LOADS = {**{str(number): (bodies.SIZES[0], number) for number in CONNECTIONS}, "large": (bodies.SIZES[-1], 64)}


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One way to serve: settings of the archive, lines of config.properties, options of Java."""

    title: str
    archive: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    java: str = ""


def settings(cores: int) -> list[Setting]:
    """Return what is compared; the first is what is served."""
    found = [Setting("as served")]
    if cores > 1:
        found.append(Setting(f"1 worker x {cores} threads", ("minWorkers=1",)))
    found.append(Setting(f"{cores + 1} workers x 1 thread", (f"minWorkers={cores + 1}",)))
    found += [Setting(f"batchSize {size}", (f"batchSize={size}",)) for size in (4, 16, 32)]
    found += [Setting(f"maxBatchDelay {delay} ms", (f"maxBatchDelay={delay}",)) for delay in (0, 2, 5, 10)]
    found += [Setting(option, java=option) for option in ("-XX:+UseSerialGC", "-XX:+UseG1GC")]
    found.append(Setting("both of Java's compilers", java="-XX:TieredStopAtLevel=4"))
    found += [Setting(line, config=(line,)) for line in ("number_of_netty_threads=2", "netty_client_threads=1")]
    return found


def config_of(text: str, setting: Setting) -> str:
    """Return config.properties with what a setting adds."""
    (vmargs,) = [line for line in text.splitlines() if line.startswith("vmargs=")]
    more = [f"{vmargs} {setting.java}"] if setting.java else []  # in the place of what is served with
    return "\n".join([text, *more, *setting.config]) + "\n"


def measure(setting: Setting, run: Path, precision: str, seconds: float, offset: int) -> dict[str, float]:
    """Return requests/s of each of `LOADS`, and the median of one connection in ms."""
    root = Path.cwd()
    folder = servers.empty(root / WORK)
    overrides = [*setting.archive, f"handler.precision={precision}"]
    archive.build(MODEL, "1.0", run=run, store=folder / "model_store", overrides=overrides, rehearse=False)
    found: dict[str, float] = {}
    with servers.torchserve(
        *(MODEL, folder, config_of((root / "config.properties").read_text(), setting), {"Content-Type": "image/jpeg"}),
        python=servers.own_python(), root=root, offset=offset,
        environment=Shares.of_this_machine(1).environment(),
    ) as running:  # fmt: skip
        for name, (size, connections) in LOADS.items():
            paths = bodies.draw(size, DRAWN)
            closed_loop.run(running.url, paths, connections=8, seconds=1, headers=running.headers)
            running.ask(paths[0].read_bytes())
            load = closed_loop.run(
                running.url, paths, connections=connections, seconds=seconds, headers=running.headers
            )
            found[name] = round(load.requests_per_second, 1)
            if connections == 1:
                found["p50"] = round(load.p50, 2)
    return found


def show(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the table."""
    table = Table("setting", *LOADS, "median of 1, ms", title="requests/s by connections")
    for row in rows:
        table.add_row(row["title"], *(f"{row['median'][key]:g}" for key in (*LOADS, "p50")))
    console.print(table)


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one load")
    parser.add_argument("--precision", default="bf16")
    options = parser.parse_args(arguments)
    console = Console(width=120)
    try:
        closed_loop.find_wrk()
        run = trained.run("resnet18", Path.cwd(), console.print)
        offset = ports.offset_of_environment()
    except (closed_loop.LoadError, trained.TrainingFailed, ports.PortError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    compared = settings(len(os.sched_getaffinity(0)))
    found: dict[str, list[dict[str, float]]] = {each.title: [] for each in compared}
    for number in range(options.rounds):
        for each in compared:
            try:
                rates = measure(each, run, options.precision, options.seconds, offset)
            except (NotMeasured, closed_loop.LoadError) as error:
                console.print(f"{each.title}: not measured: {error}")
                continue
            found[each.title].append(rates)
            console.print(f"round {number + 1} of {options.rounds}, {each.title}: {rates}", highlight=False)
    rows = [
        {
            "title": title,
            "median": {key: round(statistics.median(each[key] for each in rounds), 2) for key in rounds[0]},
            "rounds": rounds,
        }
        for title, rounds in found.items()
        if rounds
    ]
    document = {
        "benchmark": "sweep",
        "command": " ".join(["python -m benchmarks.sweep", *arguments]),
        "precision": options.precision,
        "seconds": options.seconds,
        "shares": dataclasses.asdict(Shares.of_this_machine(1)),
        "archive": model_config.configure(()),
        "rows": rows,
        "machine": machine("cpu"),
        "versions": versions(),
    }
    show(rows, console)
    write_json(RESULT, document)
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
