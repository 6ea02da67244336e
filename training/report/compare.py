"""Compare evaluated runs on the same test images: scores side by side, and each run against the first in pairs.

    python -m training.report.compare moths moths-50 [more runs] [--json]

Reads `runs/<run>/evaluation/` of each. Runs of one data set have the same images; of others, whose images have another
size or filter, the encoded bytes of the test images have to be the same.
"""

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from handlers import naming
from handlers.run_folder import RunFolder
from training.configuration import ConfigurationError
from training.console import table_console
from training.data.progress import plain_console, progress
from training.data.records import DatasetError
from training.data.splits import Rows
from training.predictions import Predictions
from training.report.documents import Documents, document
from training.report.summary import NAMES

Right = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluated:
    """A run with its evaluation; `classes` are in the order of the labels."""

    name: str
    files: RunFolder
    documents: Documents
    predictions: Predictions
    classes: list[str]

    @classmethod
    def read(cls, name: str) -> Self:
        """Read the evaluation of a run.

        Raises:
            ConfigurationError: no run can have that name, or it is not evaluated.
        """
        if fault := naming.fault_of_run(name):
            raise ConfigurationError(fault)
        files = RunFolder.of(name)
        metrics = document(files.metrics)
        if not metrics or not files.predictions.is_file():
            raise ConfigurationError(f"{files.path} is not evaluated: make evaluate NAME={name}")
        if not metrics.keys() >= {"key", "fingerprint", "per_class", *NAMES}:
            raise ConfigurationError(f"{files.metrics} is of an older release: make evaluate NAME={name}")
        predictions = Predictions.load(files.predictions)
        return cls(name, files, Documents.read(files, metrics), predictions, list(metrics["per_class"]))

    @property
    def right(self) -> Right:
        """Return whether each test image is answered right (N,)."""
        answers: Right = self.predictions.probabilities.argmax(axis=1) == self.predictions.labels
        return answers

    @property
    def true(self) -> list[str]:
        """Return the name of the true class of each test image."""
        return [self.classes[label] for label in self.predictions.labels]

    def digests(self, console: Console) -> list[str]:
        """Return the SHA-256 of the encoded bytes of each test image.

        Raises:
            DatasetError: a file is gone.
        """
        digests = []
        with progress(console, f"reading the test images of {self.name}", len(self.predictions.labels)) as advance:
            for image in self.predictions.images():
                digests.append(hashlib.sha256(image).hexdigest())
                advance(1)
        return digests


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """Two runs on the same test images: `difference` is how much higher the top-1 of the second is, as a share.

    `losses` counts images that are answered right by the first only, `gains` by the second only; `p` is McNemar's.
    """

    first: str
    second: str
    images: int
    losses: int
    gains: int
    p: float
    difference: dict[str, float]


def compare(names: Sequence[str], console: Console) -> dict[str, Any]:
    """Return the facts and scores of each run, and the pairs of the first with each other one.

    Raises:
        ConfigurationError: fewer than two runs, or one is not evaluated.
        DatasetError: they were evaluated on different test images, or an image is gone.
    """
    if len(dict.fromkeys(names)) < 2:
        raise ConfigurationError('name two runs or more: make compare NAMES="a b"')
    first, *candidates = (Evaluated.read(name) for name in dict.fromkeys(names))
    pairs = [pair(first, second, console) for second in candidates]
    runs = {run.name: {**facts(run), **_scores(run)} for run in (first, *candidates)}
    return {"runs": runs, "pairs": [dataclasses.asdict(item) for item in pairs]}


def pair(first: Evaluated, second: Evaluated, console: Console) -> Pair:
    """Compare a run with the first on the same test images.

    Raises:
        DatasetError: they were evaluated on different test images, or an image is gone.
    """
    from training import scores  # takes a second to import

    rows, places = _same_images(first, second, console)
    one, two = first.right[rows], second.right[places]
    losses, gains = int((one & ~two).sum()), int((two & ~one).sum())
    difference = scores.plain(scores.paired_loss(gains, losses, len(rows)))  # that of the second over the first
    assert difference is not None
    return Pair(first.name, second.name, len(rows), losses, gains, scores.mcnemar(losses, gains), difference)


def _same_images(first: Evaluated, second: Evaluated, console: Console) -> tuple[Rows, Rows]:
    """Return the rows of two runs in an order that pairs the same images.

    Raises:
        DatasetError: the images or their classes differ.
    """
    keys = [run.predictions.ids.tolist() for run in (first, second)]
    if not _same_data(first, second) or sorted(keys[0]) != sorted(keys[1]):
        keys = [run.digests(console) for run in (first, second)]
    if sorted(keys[0]) != sorted(keys[1]):
        common = len(set(keys[0]) & set(keys[1]))
        raise DatasetError(
            f"{first.name} and {second.name} were evaluated on different test images ({len(keys[0]):,} and "
            f"{len(keys[1]):,}, {common:,} the same): compare runs with the same images and the same split"
        )
    true = [run.true for run in (first, second)]
    # Copies of an image are in the order of their classes.
    sortable = [list(zip(key, names, strict=True)) for key, names in zip(keys, true, strict=True)]
    orders = [sorted(range(len(values)), key=values.__getitem__) for values in sortable]
    for row, place in zip(*orders, strict=True):
        if true[0][row] != true[1][place]:
            raise DatasetError(
                f"{first.predictions.ids[row]} is {true[0][row]!r} in {first.name} and {true[1][place]!r} in "
                f"{second.name}: compare runs with the same labels"
            )
    return np.array(orders[0], np.int64), np.array(orders[1], np.int64)


def _same_data(first: Evaluated, second: Evaluated) -> bool:
    fingerprints = [run.documents.metrics["fingerprint"] for run in (first, second)]
    return bool(fingerprints[0] == fingerprints[1])


def facts(run: Evaluated) -> dict[str, Any]:
    """Return the making and the cost of a run; None for a fact that an older run does not have."""
    training, weights = run.documents.training, run.documents.weights
    seconds = [training.get(name) or 0 for name in ("seconds", "seconds_of_this_start")]
    return {
        "network": training.get("network"),
        "weights": weights.get("source"),
        "image size": training.get("image_size"),
        "parameters": training.get("parameters"),
        "bytes": run.files.model.stat().st_size if run.files.model.is_file() else None,
        "epochs": training.get("epochs"),
        "training seconds": max(seconds) or None,
        "test images": run.documents.metrics["images"],
    }


def _scores(run: Evaluated) -> dict[str, Any]:
    """Return the scores of a run; that of corrupted images is None if it was not measured."""
    robust = run.documents.robustness.get("mean_top_1")
    scores = {name.replace("_", " "): run.documents.metrics[name] for name in NAMES}
    return {**scores, "top 1 of corrupted images": robust}


def tables(comparison: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of a comparison: the runs, and the pairs."""
    runs = comparison["runs"]
    shown = Table("", *runs)
    for name in next(iter(runs.values())):
        shown.add_row(name, *(_text(run[name]) for run in runs.values()))
    yield shown
    paired = Table("pair", "top 1, points (95 %)", "gained", "lost", "McNemar's p")
    for pair in comparison["pairs"]:
        value, low, high = (100 * pair["difference"][name] for name in ("value", "low", "high"))
        interval = f"{value:+.2f} ({low:+.2f} to {high:+.2f})"
        title = f"{pair['second']} against {pair['first']}"
        paired.add_row(title, interval, str(pair["gains"]), str(pair["losses"]), f"{pair['p']:.2g}")
    yield paired


def _text(value: Any) -> str:
    """Return a fact or a score for people."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        return f"{value['value']:.4f} ({value['low']:.4f} to {value['high']:.4f})"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.report.compare", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="runs; the first is the one that the others are compared with")
    parser.add_argument("--json", action="store_true", help="print a JSON document in place of tables")
    options = parser.parse_intermixed_args(arguments)
    names = [name for argument in options.names for name in argument.split()]  # make gives all names as one
    try:
        comparison = compare(names, plain_console())
    except (ConfigurationError, DatasetError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(comparison, indent=2))
        return 0
    for table in tables(comparison):
        table_console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
