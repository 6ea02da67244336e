"""Measure how fast Sightline and its peers serve images with the same weights and bodies, in one run.

    python -m benchmarks.serving                        everything, about 40 minutes on 2 cores; the README's table
    python -m benchmarks.serving --quick                one round of short loads, about 8 minutes; another result file
    python -m benchmarks.serving --rows ours-bf16 noop  only these rows (--list names them)

Trains the served network once, with the commands of the project; starts one server at a time; checks its answers
against ours in process; loads it with `wrk` at each number of connections and, for some rows, at a fixed rate. Each
round measures all rows in turn, so that other load of the machine affects all of them. A row that cannot be measured is
recorded with its reason, and the result has every raw row. Prints a table and, as its last line, one JSON document;
exits with 1 if no row was measured.
"""

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import bench_runs
from benchmarks.comparison import chart, figures, stock_search
from benchmarks.comparison import rows as serving_rows
from benchmarks.comparison.figures import SMALL, Figures
from benchmarks.comparison.rows import Bench, Row
from benchmarks.comparison.session import Session
from benchmarks.harness import console
from benchmarks.peers import environment
from benchmarks.result import BUSY, SERVING, Origin, publish
from benchmarks.traffic import bodies, closed_loop
from benchmarks.traffic.closed_loop import LoadError
from handlers.atomic import write_json
from handlers.classifier import Classifier
from handlers.run_folder import RunFolder
from pipeline import lock
from pipeline.setup import SetupError
from serving.host import ports
from training.run import versions

RESULT = Path("benchmarks/results/serving.json")
WORK, DRAWN = Path("runs/bench-serving"), Path("data/bench-bodies")
ROUNDS = "rounds.json"  # the finished rounds
CONNECTIONS = (1, 16, 64)
CHECKED = 4  # images of each body whose labels are compared with ours
PEERS = ("litserve", "bentoml", "openvino", "nvidia-pytriton", "torchserve")


def labels_of(bench: Bench, images: dict[str, list[Path]]) -> dict[str, list[str]]:
    """Return our labels of the first images of each body, in fp32 and in process."""
    classifier = Classifier(RunFolder(bench.root / bench.run).model, top_k=1)
    labels = {}
    for body, paths in images.items():
        answers = classifier.classify([path.read_bytes() for path in paths[:CHECKED]])
        labels[body] = [next(iter(answer)) if isinstance(answer, dict) else "" for answer in answers]
    del classifier
    gc.collect()
    return labels


def document(
    session: Session, rows: Sequence[Row], options: argparse.Namespace, tried: Sequence[Any], origin: Origin
) -> dict[str, Any]:
    """Return the result so far, with all raw rows."""
    cells, open_cells = figures.cells(session.runs), figures.open_cells(session.runs)
    training = json.loads(RunFolder(session.bench.root / session.bench.run).training.read_text())
    network = {name: training[name] for name in ("network", "classes", "image_size", "parameters")}
    peer_versions = lock.versions(session.bench.root / environment.LOCK)
    generator_cores = [
        cell.get("generator_cores", 0.0)
        for by_body in cells.values()
        for loads in by_body.values()
        for cell in loads.values()
    ]
    return {
        "benchmark": "serving",
        **origin.document(),
        "minutes": round((time.monotonic() - session.start) / 60, 1),
        "quick": options.quick,
        "rounds": options.rounds,
        "seconds": session.seconds,
        "connections": list(session.connections),
        "versions": versions() | {"python": platform.python_version()} | {name: peer_versions[name] for name in PEERS},
        "network": network | {"name": network["network"]},
        "archive": session.bench.model_config,
        "bodies": {body: _body(paths) for body, paths in session.images.items()},
        "elsewhere_cores": round(max(session.elsewhere, default=0.0), 2),
        "generator_cores": round(max(generator_cores, default=0.0), 3),
        "rows": [_row(session, row, measured=row.name in cells) for row in rows],
        "cells": cells,
        "open": open_cells,
        "stock_search": list(tried),
        "runs": session.runs,
    }


def _row(session: Session, row: Row, *, measured: bool) -> dict[str, Any]:
    about = {name: getattr(row, name) for name in ("name", "title", "precision", "kind", "ours", "chart", "full")}
    if row.name == "stock-best":
        about["title"] += f" ({session.bench.best.title})"
    note = session.reasons.get(row.name)
    reason = None if measured else note or "not reached"
    return about | {"reason": reason, "agreement": session.agreement.get(row.name), "note": note}


def _body(paths: Sequence[Path]) -> dict[str, Any]:
    sizes = [path.stat().st_size for path in paths]
    return {"images": len(paths), "kilobytes": round(sum(sizes) / len(sizes) / 1000, 1)}


def show(result: dict[str, Any]) -> None:
    """Print the table, and the targets below it."""
    rows = []
    for row in result["rows"]:
        cells = result["cells"].get(row["name"], {})
        rates = [figures.rates(cells.get(body, {}), result["connections"]) for body in result["bodies"]]
        rows.append((row["title"], *(rates if row["reason"] is None else [f"not measured: {row['reason']}"])))
    title = f"requests/s at {' / '.join(map(str, result['connections']))} connections"
    console.print_table(title, ("server", *result["bodies"]), rows)
    quiet = result["elsewhere_cores"] <= BUSY
    targets = figures.targets(Figures(result["cells"], result["open"]), quiet=quiet)
    console.print_table("targets", figures.WORDS, map(figures.words, targets))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = console.parser("serving", __doc__)
    names = [row.name for row in serving_rows.rows()]
    parser.add_argument("--quick", action="store_true", help="one round of 2 s a load, without the other networks")
    parser.add_argument("--rows", nargs="+", choices=names, metavar="ROW", help="only these rows")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="duration of one load")
    parser.add_argument("--connections", type=int, nargs="+", default=list(CONNECTIONS))
    parser.add_argument("--result", type=Path, help="the JSON file (default: that of the README for a full run only)")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (2 if options.quick else 3)
    whole = not (options.quick or options.rows) and options.connections == list(CONNECTIONS)
    options.result = options.result or (RESULT if whole else WORK / RESULT.name)
    return options


def rows_of(options: argparse.Namespace) -> list[Row]:
    """Return the rows of the options."""
    rows = serving_rows.rows()
    if options.rows:
        return [row for row in rows if row.name in options.rows]
    return [row for row in rows if not (options.quick and row.ours and not row.full)]


def prepare(options: argparse.Namespace) -> Session:
    """Train, draw the bodies, build the environment of the peers, and return the session.

    Raises:
        LoadError: wrk is not installed.
        bench_runs.TrainingFailed, PortError: a preparation failed.
    """
    closed_loop.find_wrk()
    root = Path.cwd()
    run = bench_runs.run("resnet18", root)
    try:
        environment.make(root)
    except SetupError as error:  # it is the reason of every row that needs the environment
        print(f"without peers: {error}", flush=True)
    print("drawing the bodies, once", flush=True)
    images = {size.name: bodies.draw(size, DRAWN) for size in bodies.SIZES}
    (root / WORK).mkdir(parents=True, exist_ok=True)
    bench = Bench(
        *(root, root / WORK, run, ports.offset_of_environment()),
        probe=images[SMALL][0].read_bytes(),
        seconds=options.seconds / 2,
        folders=tuple(paths[0].parent for paths in images.values()),
    )
    labels = labels_of(bench, images)
    return Session(bench, images, labels, options.connections, options.seconds, 2.5 * options.seconds)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    options = parse(arguments)
    rows = rows_of(options)
    origin = Origin("serving", arguments, code=(*SERVING, "benchmarks/peers", "benchmarks/comparison/rows.py"))
    if options.list:
        print("\n".join(f"{row.name:22} {row.title}" for row in rows))
        return 0
    try:
        session = prepare(options)
        tried: list[dict[str, Any]] = []
        if any(row.name == "stock-best" for row in rows):
            session.bench.best, tried = stock_search.best(session, options.quick)
        for number in range(1, options.rounds + 1):
            for row in rows:
                session.log(f"round {number} of {options.rounds}: {row.title}")
                session.measure(row, number)
            write_json(WORK / ROUNDS, document(session, rows, options, tried, origin))
    except (LoadError, bench_runs.TrainingFailed, ports.PortError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"error: interrupted; whole rounds, if any, are in {WORK / ROUNDS}", file=sys.stderr)
        return 130
    result = document(session, rows, options, tried, origin)
    chart.draw(result, options.result.with_suffix(".svg"))
    show(result)
    return publish(result, options.result, failed=not result["cells"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
