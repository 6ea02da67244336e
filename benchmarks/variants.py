"""How much does a small network gain from a teacher, and what does a pruned one lose? Over the folds of real data sets.

    python -m benchmarks.variants RAW_ROOT [--sets moths petals] [--kinds original alone taught pruned]
                                                  [--epochs 30] [--folds 5] [--channels 0.3]

RAW_ROOT has one folder a data set, in the layout of its public source. Four networks are cross-validated on the first
`--folds` of five folds: EfficientNet-Lite0, fine-tuned; a half ResNet-18-D that starts from nothing and has only the
labels; the same with that EfficientNet as teacher, for as many epochs; and the EfficientNet without a part of its
channels, fine-tuned with the whole one as teacher. Each fold learns from the same fold. Requests/s are those of `wrk`
through 16 connections to a TorchServe with the first fold's network, in turns, in the precision that the machine
chooses.

Writes benchmarks/results/variants.json after each data set; the last line is that document. A command that was stopped
continues.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy_and_rate import rate
from benchmarks.harness import console
from benchmarks.harness.servers import NotMeasured
from benchmarks.real import SCRATCH, RunError, step
from benchmarks.result import Sections
from benchmarks.traffic import closed_loop
from handlers.run_folder import RUNS, RunFolder
from training import configuration, crossvalidate, evaluate, scores
from training.configuration import ConfigurationError, TrainingError
from training.data.records import DatasetError
from training.predictions import Predictions
from training.prune import prune
from training.report.documents import document

RESULT = Path("benchmarks/results/variants.json")
FOLDS, ROUNDS, SECONDS = 5, 3, 3.0
# kind -> the kind that it is compared with
KINDS = {"original": "", "alone": "", "taught": "alone", "pruned": "original"}


def name_of(dataset: str, kind: str) -> str:
    """Return the name of the cross-validation of a kind."""
    return f"{dataset}-variants-{kind}"


def cross_validate(dataset: str, kind: str, epochs: int, folds: int) -> dict[str, Any]:
    """Train and evaluate the folds of a kind, and return its pooled scores.

    Raises:
        ConfigurationError, TrainingError, DatasetError: a run is impossible.
    """
    small = kind != "original"
    settings = [f"dataset={dataset}", f"name={name_of(dataset, kind)}", f"split.folds={FOLDS}"]
    settings += [f"store={dataset}-scratch", SCRATCH, f"trainer.epochs={epochs}"] if small else [f"store={dataset}"]
    settings += [f"teacher={name_of(dataset, 'original')}"] if kind == "taught" else []
    return crossvalidate.run(crossvalidate.folds(settings)[:folds], console=console.progress())


def prune_folds(dataset: str, channels: float, epochs: int, folds: int) -> dict[str, Any]:
    """Prune, fine-tune and evaluate the network of each fold of the original, and return the pooled scores.

    Raises:
        ConfigurationError, TrainingError, DatasetError: a run is impossible.
    """
    runs = []
    for fold in range(folds):
        source, target = (f"{name_of(dataset, kind)}/fold-{fold}" for kind in ("original", "pruned"))
        runs.append(prune(source, target, channels, [f"trainer.epochs={epochs}"]))
    results = [{**evaluate.run(run), "int8": crossvalidate.compare_int8(run, console.progress())} for run in runs]
    return crossvalidate.pool([configuration.load(run) for run in runs], results)


def difference(first: Path, second: Path) -> dict[str, Any]:
    """Return how much higher the pooled top-1 of the second cross-validation is on the same images, as a share."""
    right = []
    for folder in (first, second):
        predictions = Predictions.load(RunFolder(folder).pooled_predictions)
        answers = predictions.probabilities.argmax(axis=1) == predictions.labels
        right.append(dict(zip(predictions.ids.tolist(), answers.tolist(), strict=True)))
    before, after = right
    if before.keys() != after.keys():
        raise DatasetError(f"{first} and {second} have other images: remove both, and repeat the command")
    losses = sum(before[image] and not after[image] for image in before)
    gains = sum(after[image] and not before[image] for image in before)
    points = scores.plain(scores.paired_loss(gains, losses, len(before)))
    return {"difference": points, "gains": gains, "losses": losses, "p": scores.mcnemar(losses, gains)}


def measure(dataset: str, options: Any) -> list[dict[str, Any]]:
    """Return a row for each kind of network.

    Raises:
        ConfigurationError, TrainingError, DatasetError: a run is impossible.
        NotMeasured, LoadError: a server cannot be measured.
    """
    rows = []
    needed = {"original", *options.kinds, *(KINDS[kind] for kind in options.kinds)}
    kinds = [kind for kind in KINDS if kind in needed]
    for kind in kinds:
        against = KINDS[kind]
        if kind == "pruned":
            pooled = prune_folds(dataset, options.channels, options.epochs, options.folds)
        else:
            pooled = cross_validate(dataset, kind, options.epochs, options.folds)
        folder = RUNS / name_of(dataset, kind)
        training = document(RunFolder(folder / "fold-0").training)
        rows.append(
            {
                "kind": kind,
                "parameters": training["parameters"],
                "image_size": training["image_size"],
                "epochs": training["epochs"],
                "test_images": pooled["images"],
                **{score: pooled[score] for score in ("top_1", "calibration_error")},
                "int8": pooled["int8"],
                "train_seconds": max(fold["train_seconds"] for fold in pooled["folds"]),
                **({"against": against, **difference(RUNS / name_of(dataset, against), folder)} if against else {}),
            }
        )
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, values in rates.items():
            values.append(rate(RUNS / name_of(dataset, kind) / "fold-0", "auto", SECONDS))
    for row in rows:
        values = rates[row["kind"]]
        row["requests_per_second"] = round(statistics.median(values), 1)
        row["range"] = [round(min(values), 1), round(max(values), 1)]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the data sets of the command line."""
    parser = console.parser("variants", __doc__)
    parser.add_argument("raw_root", type=Path, help="folder with one raw folder a data set")
    parser.add_argument("--sets", nargs="+", default=["moths"], help="default: moths")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="default: all; the original too")
    parser.add_argument("--epochs", type=int, default=30, help="of the networks from nothing and of the pruned one")
    parser.add_argument("--folds", type=int, default=FOLDS, choices=range(1, FOLDS + 1), help="the first of five")
    parser.add_argument("--channels", type=float, default=0.3, help="part that pruning removes (default 0.3)")
    options = parser.parse_args(arguments)
    command = [
        "RAW_ROOT",
        "--sets",
        *options.sets,
        "--kinds",
        *options.kinds,
        "--epochs",
        str(options.epochs),
        "--folds",
        str(options.folds),
    ]
    command += ["--channels", f"{options.channels:g}"]
    result = Sections("variants", RESULT, arguments=command, code=("handlers", "serving", "training"))
    try:
        closed_loop.find_wrk()
        for dataset in options.sets:
            for store, network in ((dataset, ()), (f"{dataset}-scratch", (SCRATCH,))):
                raw = options.raw_root / dataset
                step("training.data.prepare", f"dataset={dataset}", f"raw={raw}", f"name={store}", *network)
            result.write(dataset, measure(dataset, options))
    except (ConfigurationError, DatasetError, TrainingError, RunError, NotMeasured, closed_loop.LoadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return result.publish(failed=False)


if __name__ == "__main__":
    sys.exit(main())
