"""A run beside its variants, smaller or faster forms of it: how accurate, large and fast is each in each precision?

    python -m training.report.variants moths [other runs]

Variants are the runs that were pruned from it or that it taught, and those that are named. Each is evaluated if need
be, and answers the test images in each precision that this machine gains from and in int8. A paired test compares the
answers with those of the run itself in float32; the speed is that of the network in one process.

Writes runs/<run>/variants.html and variants.json.
"""

import argparse
import dataclasses
import io
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from handlers.atomic import write_json, write_text
from handlers.machine import share_cores
from handlers.run_folder import RUNS, RunFolder
from training import evaluate
from training.configuration import ConfigurationError
from training.console import table_console
from training.data.progress import plain_console
from training.data.records import DatasetError
from training.pages import template
from training.pages.thumbnails import data_url
from training.predictions import open_classifier, predict
from training.report import compare, speed
from training.report.compare import Evaluated
from training.report.documents import document
from training.transfer.pretrained import sha256

TEMPLATE = Path(__file__).with_name("variants.html")
PAGE, DOCUMENT = "variants.html", "variants.json"
REFERENCE = "fp32"  # the precision of an evaluation
BATCH = 64  # images
TURNS = 3  # of measuring the speed of all runs


def variants_of(name: str) -> list[str]:
    """Return the names of the finished runs that were pruned from a run or that it taught, sorted."""
    names = []
    for path in RUNS.rglob(RunFolder.of(name).training.name):
        training = document(path)
        origins = [training.get("teacher") or {}, training.get("pruning") or {}]
        if any(origin.get("run") == name for origin in origins):
            names.append(path.parent.relative_to(RUNS).as_posix())
    return sorted(names)


def measure(name: str, extra: Sequence[str], console: Console) -> dict[str, Any]:
    """Return a row for each precision of the run and of its variants, the run in float32 first.

    Raises:
        ConfigurationError: a run is missing or not trained to its end.
        DatasetError: its data set or a test image is gone, or their test images differ.
    """
    named = dict.fromkeys([name, *extra])
    for run in named:
        evaluate.trained(RunFolder.of(run).path)
    for run in named:
        console.print(run, highlight=False)
        evaluate.run(RunFolder.of(run).path, console=console)
    original = Evaluated.read(name)
    variants = [run for run in variants_of(name) if run not in named and _is_comparable(original, run, console)]
    names = [name, *variants, *list(named)[1:]]
    speeds = _speeds(names, console)
    rows = [row for run in names for row in _rows(original, Evaluated.read(run), speeds[run], console)]
    return {"run": name, "rows": rows}


def _is_comparable(original: Evaluated, name: str, console: Console) -> bool:
    """Evaluate a variant, and return whether it can be compared with the run; say why if not."""
    console.print(name, highlight=False)
    try:
        training = document(RunFolder.of(name).training)
        origins = [training.get("teacher") or {}, training.get("pruning") or {}]
        recorded = {origin["sha256"] for origin in origins if origin.get("run") == original.name}
        if recorded != {sha256(original.files.model)}:
            raise ConfigurationError(f"{original.files.model} is another network now: train {name} again")
        evaluate.run(RunFolder.of(name).path, console=console)
        compare.pair(original, Evaluated.read(name), console)
    except (ConfigurationError, DatasetError, OSError, ValueError) as error:
        console.print(f"warning: {name} is left out: {error}", highlight=False, soft_wrap=True)
        return False
    return True


def _speeds(names: Sequence[str], console: Console) -> dict[str, dict[str, Any]]:
    """Return the speed of each run: images/s are the medians of turns, so that a busy machine slows all of them."""
    turns = [{name: speed.measure(RunFolder.of(name), console) for name in names} for _ in range(TURNS)]

    def median(name: str, precision: str, batch: str) -> float:
        rates: list[float] = [turn[name]["images_per_second"][precision][batch] for turn in turns]
        return statistics.median(rates)

    return {
        name: {
            **first,
            "images_per_second": {
                precision: {batch: median(name, precision, batch) for batch in rates}
                for precision, rates in first["images_per_second"].items()
            },
        }
        for name, first in turns[0].items()
    }


def _rows(original: Evaluated, run: Evaluated, speeds: Mapping[str, Any], console: Console) -> Iterator[dict[str, Any]]:
    """Yield a row for each precision of a run."""
    from training import scores  # takes a second to import

    facts = compare.facts(run)
    order = sorted(speeds["images_per_second"], key=lambda precision: precision != REFERENCE)
    for precision in order:
        form = run if precision == REFERENCE else _answered(run, precision, console)
        probabilities, labels = form.predictions.probabilities, form.predictions.labels
        path = run.files.int8_model if precision == "int8" else run.files.model
        pair = compare.pair(original, form, console)
        yield {
            "run": run.name,
            "kind": _kind(original, run),
            "precision": precision,
            "parameters": facts["parameters"],
            "bytes": path.stat().st_size,
            "top_1": scores.plain(scores.proportion(int(form.right.sum()), len(labels))),
            "calibration_error": scores.plain(scores.calibration_estimate(probabilities, labels)),
            "images_per_second": speeds["images_per_second"][precision],
            "threads": speeds["threads"],
            **{field: getattr(pair, field) for field in ("images", "difference", "gains", "losses", "p")},
        }


def _answered(run: Evaluated, precision: str, console: Console) -> Evaluated:
    """Return a run with the answers of its network in another precision to the same images."""
    exact = run.predictions
    classifier = open_classifier(run.files.path, precision)
    answers = predict(classifier, exact.records(), exact.raw, batch=BATCH, console=console)
    return dataclasses.replace(run, predictions=dataclasses.replace(exact, probabilities=answers))


def _kind(original: Evaluated, run: Evaluated) -> str:
    """Return the origin of a variant in a few words; "" of the run itself."""
    if run.name == original.name:
        return ""
    pruning, teacher = (run.documents.training.get(name) or {} for name in ("pruning", "teacher"))
    words = [f"{pruning['channels']:.0%} of the channels pruned"] if pruning.get("run") == original.name else []
    words += ["distilled"] if teacher.get("run") == original.name else []
    return ", ".join(words)


def table(comparison: Mapping[str, Any]) -> Table:
    """Return the rows of a comparison for people."""
    batches = list(comparison["rows"][0]["images_per_second"])
    rates = [f"images/s, batch {batch}" for batch in batches]
    shown = Table("run", "precision", "MB", "top 1 in % (95 %)", "points (95 %)", "p", "calibration error", *rates)
    for row in comparison["rows"]:
        shown.add_row(*cells(row, comparison["run"]).values())
    return shown


def remark(comparison: Mapping[str, Any]) -> str:
    """Return the commands that make variants, if the run has none."""
    name = comparison["run"]
    if {row["run"] for row in comparison["rows"]} != {name}:
        return ""
    return f"{name} has no variants: make prune NAME={name}, or make train with ARGS=teacher={name}"


def cells(row: Mapping[str, Any], original: str) -> dict[str, str]:
    """Return the cells of a row; that of the run itself in float32 is compared with nothing."""
    top_1, difference = ({key: 100 * value for key, value in row[name].items()} for name in ("top_1", "difference"))
    is_reference = row["run"] == original and row["precision"] == REFERENCE
    points = f"{difference['value']:+.2f} ({difference['low']:+.2f} to {difference['high']:+.2f})"
    return {
        "run": row["run"],
        "precision": row["precision"],
        "size": f"{row['bytes'] / 1e6:.2f}",
        "top_1": f"{top_1['value']:.2f} ({top_1['low']:.1f} to {top_1['high']:.1f})",
        "points": "" if is_reference else points,
        "p": "" if is_reference else f"{row['p']:.2g}",
        "calibration_error": f"{row['calibration_error']['value']:.4f}",
        **{f"batch {batch}": f"{rate:,.1f}" for batch, rate in row["images_per_second"].items()},
    }


def write(comparison: Mapping[str, Any]) -> Path:
    """Write the page and the document into the folder of the run, and return the page."""
    folder = RunFolder.of(comparison["run"]).path
    rows = comparison["rows"]
    batches = list(rows[0]["images_per_second"])
    write_json(folder / DOCUMENT, comparison)
    page = template.render(
        TEMPLATE,
        name=comparison["run"],
        images=rows[0]["images"],
        threads=rows[0]["threads"],
        picture=_picture(rows, batches[-1]),
        batches=batches,
        rows=[(row, cells(row, comparison["run"])) for row in rows],
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def _picture(rows: Sequence[Mapping[str, Any]], batch: str) -> str:
    """Return top-1 against images/s as a data URL."""
    from training.report import rates  # matplotlib takes a second to import

    points = [
        rates.Point(
            f"{row['run']} {row['kind'] and '(' + row['kind'] + ')'}".strip(),
            row["precision"],
            row["images_per_second"][batch],
            {key: 100 * value for key, value in row["top_1"].items()},
        )
        for row in rows
    ]
    picture = io.BytesIO()
    rates.draw(points, picture, f"images/s, batch {batch}", f"top-1 in %, {rows[0]['images']:,} test images")
    return data_url("image/svg+xml", picture.getvalue())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.report.variants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="the original")
    parser.add_argument("extra", nargs="*", help="runs to compare with it beside its variants")
    parser.add_argument("--json", action="store_true", help="print a JSON document in place of a table")
    options = parser.parse_intermixed_args(arguments)
    try:
        comparison = measure(options.run, options.extra, plain_console())
        page = write(comparison)
    except (ConfigurationError, DatasetError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(comparison, indent=2))
        return 0
    table_console().print(table(comparison))
    if line := remark(comparison):
        print(line)
    print(f"page: {page}")
    return 0


if __name__ == "__main__":
    share_cores()
    sys.exit(main())
