"""How fast images are served: ours, and every peer with the same weights and bodies, in one run.

    python -m benchmarks.serving                        everything, about 40 minutes on 2 cores; the README's table
    python -m benchmarks.serving --quick                one round of short loads, about 8 minutes; its own result file
    python -m benchmarks.serving --rows ours-bf16 noop  these rows alone (--list names them)
    python -m benchmarks.serving --photographs FOLDER   with real photographs as one more set of bodies

Trains the network that is served, once, through the project's own commands; starts one server at a time; checks its
answers against ours in process; loads it with `wrk` at each number of connections and, some, at a set rate. Rounds go
over all rows in turn, so that whatever else the machine does meets all of them. A row that cannot be measured is
recorded with its reason. Every raw row is kept. Prints a table and, as its last line, one JSON document; 1 where no row
could be measured.
"""

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import bodies, closed_loop, serving_chart, serving_figures, serving_rows, stock_search, trained
from benchmarks.closed_loop import LoadError
from benchmarks.peers import environment
from benchmarks.result import BUSY, SERVING, Origin, publish
from benchmarks.serving_figures import SMALL, Figures
from benchmarks.serving_rows import Bench, Row
from benchmarks.serving_session import Session
from handlers.atomic import write_json
from handlers.classifier import Classifier
from pipeline import lock
from pipeline.setup import SetupError
from serving import ports
from training.train import versions

RESULT = Path("benchmarks/results/serving.json")
WORK, DRAWN = Path("runs/bench-serving"), Path("data/bench-bodies")
KEPT = "rounds.json"  # all rounds that are done, while others are still measured
CONNECTIONS = (1, 16, 64)
CHECKED = 4  # images of each body whose labels are held against ours
PEERS = ("litserve", "bentoml", "openvino", "nvidia-pytriton", "torchserve")


def labels_of(bench: Bench, images: dict[str, list[Path]]) -> dict[str, list[str]]:
    """Return our own labels of the first images of each body, in fp32 and in process."""
    classifier = Classifier(bench.root / bench.run / "model.pt", top_k=1)
    found = {}
    for body, paths in images.items():
        answers = classifier.classify([path.read_bytes() for path in paths[:CHECKED]])
        found[body] = [next(iter(answer)) if isinstance(answer, dict) else "" for answer in answers]
    del classifier
    gc.collect()
    return found


def document(
    session: Session, rows: Sequence[Row], options: argparse.Namespace, tried: Sequence[Any], origin: Origin
) -> dict[str, Any]:
    """Return all that is known, from the raw rows up."""
    cells, open_cells = serving_figures.cells(session.runs), serving_figures.open_cells(session.runs)
    figures = Figures(cells, open_cells)
    lines = []
    for row in rows:
        reason = None if row.name in cells else session.reasons.get(row.name, "not reached")
        kept = {name: getattr(row, name) for name in ("name", "title", "precision", "kind", "ours", "chart", "full")}
        also = {"agreement": session.agreement.get(row.name), "note": session.reasons.get(row.name)}
        title = f" ({session.bench.best.title})" if row.name == "stock-best" else ""
        lines.append(kept | {"title": row.title + title, "reason": reason} | also)
    measured = [row.name for row in rows if row.name in cells]
    train = json.loads((session.bench.root / session.bench.run / "train.json").read_text())
    network = {name: train[name] for name in ("network", "classes", "image_size", "parameters")}
    load = {name: [cell.get("generator_cores", 0.0) for _, cell in _each(cells)] for name in ("generator_cores",)}
    peers = lock.versions(session.bench.root / environment.LOCK)
    return {
        "benchmark": "serving",
        **origin.document(),
        "minutes": round((time.monotonic() - session.began) / 60, 1),
        "quick": options.quick,
        "rounds": options.rounds,
        "seconds": session.seconds,
        "connections": list(session.connections),
        "versions": versions() | {"python": platform.python_version()} | {name: peers[name] for name in PEERS},
        "network": network | {"name": network["network"]},
        "archive": session.bench.model_config,
        "bodies": {body: _body(paths) for body, paths in session.images.items()},
        "elsewhere_cores": round(max(session.elsewhere, default=0.0), 2),
        "generator_cores": round(max(load["generator_cores"], default=0.0), 3),
        "rows": lines,
        "cells": cells,
        "open": open_cells,
        "ratios": serving_figures.ratios(figures, "ours-bf16", [name for name in measured if name != "ours-bf16"]),
        "stock_search": list(tried),
        "runs": session.runs,
    }


def _each(cells: dict[str, Any]) -> Iterable[tuple[str, dict[str, float]]]:
    for row, of_body in cells.items():
        for loads in of_body.values():
            for cell in loads.values():
                yield row, cell


def _body(paths: Sequence[Path]) -> dict[str, Any]:
    sizes = [path.stat().st_size for path in paths]
    return {"images": len(paths), "kilobytes": round(sum(sizes) / len(sizes) / 1000, 1)}


def show(found: dict[str, Any], console: Console) -> None:
    """Print the table, and the targets below it."""
    table = Table("server", *found["bodies"], title=f"requests/s at {_numbers(found['connections'])} connections")
    for row in found["rows"]:
        cells = found["cells"].get(row["name"], {})
        texts = [serving_figures.rates(cells.get(body, {}), found["connections"]) for body in found["bodies"]]
        table.add_row(row["title"], *(texts if row["reason"] is None else [f"not measured: {row['reason']}"]))
    console.print(table)
    goals = Table(*serving_figures.WORDS)
    for each in serving_figures.targets(Figures(found["cells"], found["open"]), quiet=found["elsewhere_cores"] <= BUSY):
        goals.add_row(*serving_figures.words(each))
    console.print(goals)


def _numbers(connections: Sequence[int]) -> str:
    return " / ".join(map(str, connections))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [row.name for row in serving_rows.rows()]
    parser.add_argument("--quick", action="store_true", help="one round of 2 s a load, without the other networks")
    parser.add_argument("--rows", nargs="+", choices=names, metavar="ROW", help="these alone")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of one load")
    parser.add_argument("--connections", type=int, nargs="+", default=list(CONNECTIONS))
    parser.add_argument("--precisions", nargs="+", default=list(serving_rows.PRECISIONS), metavar="PRECISION")
    parser.add_argument("--setting", action="append", default=[], metavar="KEY=VALUE", help="of our archives")
    parser.add_argument("--photographs", type=Path, help="a folder of real JPEG files")
    parser.add_argument("--result", type=Path, help="the JSON file (default: the README's, for a full run alone)")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (2 if options.quick else 3)
    whole = not (options.quick or options.rows) and options.connections == list(CONNECTIONS)
    options.result = options.result or (RESULT if whole else WORK / RESULT.name)
    return options


def chosen(options: argparse.Namespace) -> list[Row]:
    """Return the rows that the options ask for."""
    rows = serving_rows.rows(tuple(options.precisions))
    if options.rows:
        return [row for row in rows if row.name in options.rows]
    return [row for row in rows if not (options.quick and row.ours and not row.full)]


def prepare(options: argparse.Namespace, rows: Sequence[Row], console: Console) -> Session:
    """Train, draw the bodies, make the peers' environment, and return what is ready to be measured.

    Raises:
        LoadError: wrk is not installed.
        trained.TrainingFailed, ValueError, PortError: what is needed is not there.
    """
    closed_loop.find_wrk()
    root = Path.cwd()
    run = trained.run("resnet18", root, console.print)
    try:
        environment.make(root)
    except SetupError as error:  # every row that needs it says so
        console.print(f"without peers: {error}")
    console.print("drawing the bodies, once")
    images = {size.name: bodies.draw(size, DRAWN) for size in bodies.SIZES}
    folders = tuple(paths[0].parent for paths in images.values())
    if options.photographs:
        images[bodies.REAL] = bodies.photographs(options.photographs, WORK / bodies.REAL)
        folders = (*folders, WORK / bodies.REAL)
    (root / WORK).mkdir(parents=True, exist_ok=True)
    bench = Bench(
        *(root, root / WORK, run, ports.offset_of_environment()),
        probe=images[SMALL][0].read_bytes(),
        settings=tuple(options.setting),
        seconds=options.seconds / 2,
        folders=folders,
    )
    labels = labels_of(bench, images)
    open_seconds = 2.5 * options.seconds
    return Session(bench, images, labels, options.connections, options.seconds, open_seconds, console)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    options = parse(arguments)
    rows = chosen(options)
    origin = Origin("serving", arguments, code=(*SERVING, "benchmarks/peers", "benchmarks/serving_rows.py"))
    if options.list:
        print("\n".join(f"{row.name:22} {row.title}" for row in rows))
        return 0
    console = Console(width=120, soft_wrap=False, markup=False, emoji=False)
    try:
        session = prepare(options, rows, console)
        tried: list[dict[str, Any]] = []
        if any(row.name == "stock-best" for row in rows):
            session.bench.best, tried = stock_search.best(session, options.quick)
        for number in range(1, options.rounds + 1):
            for row in rows:
                session.say(f"round {number} of {options.rounds}: {row.title}")
                session.measure(row, number)
            write_json(WORK / KEPT, document(session, rows, options, tried, origin))
    except (LoadError, trained.TrainingFailed, ports.PortError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"error: interrupted; whole rounds, if any, are in {WORK / KEPT}", file=sys.stderr)
        return 130
    found = document(session, rows, options, tried, origin)
    serving_chart.draw(found, options.result.with_suffix(".svg"))
    show(found, console)
    return publish(found, options.result, failed=not found["cells"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
