"""Evaluate a recipe on all labelled images of a small data set, each by a model that has not seen it.

    python -m training.crossvalidate dataset=petals name=petals-cv split.folds=5 [any setting of training.train]

For each fold: train, export and evaluate into `runs/<name>/fold-<k>`. An interrupted command resumes when it is given
again. Then `runs/<name>/crossvalidation.json` holds the scores of the pooled predictions with their intervals, and each
fold's own, and what int8 loses on the pooled images. The confusion matrix and the reliability diagram of all are beside
it. The prepared data set is `data/processed/<dataset>`, or the one that `store=` names.

With `teacher=<name>` of another cross-validation, each fold learns from the same fold of that one.

The pooled interval is Wilson's, as of one model on that many images; how much models differ from fold to fold is what
the folds' own values show (Bengio and Grandvalet 2004, "No unbiased estimator of the variance of k-fold
cross-validation").
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.console import Console

from handlers.atomic import write_json
from handlers.machine import share_cores
from handlers.run_folder import RUNS, RunFolder
from training import configuration, evaluate
from training.configuration import TrainingError
from training.console import INTERRUPTED, message_of, table_console
from training.data.progress import plain_console
from training.data.records import DatasetError
from training.data.store import PreparedDataset
from training.predictions import Predictions, open_classifier, predict
from training.train import train

BATCH = 64


def folds(overrides: Sequence[str]) -> list[DictConfig]:
    """Return the configuration of each fold's run.

    Raises:
        ConfigurationError: an override does not fit, or sets what differs from fold to fold.
    """
    for name in ("split.fold=", "split.test="):
        if any(override.startswith(name) for override in overrides):
            raise configuration.ConfigurationError(f"leave {name} out: every fold is the test side of one run")
    whole = configuration.compose(overrides)
    store = [] if any(override.startswith("store=") for override in overrides) else [f"store={whole.dataset.name}"]
    return [
        configuration.compose([*overrides, *store, *_overrides(whole, fold)]) for fold in range(int(whole.split.folds))
    ]


def _overrides(whole: DictConfig, fold: int) -> list[str]:
    """Return the settings of a fold; a cross-validation teaches with the same fold, which has not seen its images."""
    settings = ["split.test=folds", f"split.fold={fold}", f"name={whole.name}/fold-{fold}"]
    teachers = [f"{whole.teacher}/fold-{number}" for number in range(int(whole.split.folds))]
    if whole.teacher is not None and any(RunFolder.of(teacher).path.is_dir() for teacher in teachers):
        settings.append(f"teacher={teachers[fold]}")
    return settings


def _check_teachers(configs: Sequence[DictConfig]) -> None:
    """Raise an error if a fold's teacher is a fold that is not trained: before the first fold, not hours later."""
    for teacher in (str(config.teacher) for config in configs if config.teacher is not None):
        if "/fold-" in teacher and not RunFolder.of(teacher).training.is_file():
            raise configuration.ConfigurationError(
                f"{RunFolder.of(teacher).path} is not trained to its end: "
                f"python -m training.crossvalidate name={teacher.partition('/')[0]} with the settings of that one"
            )


def run(configs: Sequence[DictConfig], *, console: Console | None = None) -> dict[str, Any]:
    """Train and evaluate each of the folds' configurations, and return what `crossvalidation.json` then holds.

    Raises:
        ConfigurationError: a setting is impossible.
        DatasetError: the data set is not prepared, or an image is in the test part of two folds.
    """
    _check_teachers(configs)
    console = console or plain_console()

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    results = []
    for number, config in enumerate(configs, 1):
        say(f"fold {number} of {len(configs)}")
        trained = train(config, say)
        results.append({**evaluate.run(trained, console=console), "int8": compare_int8(trained, console)})
    return pool(configs, results)


def compare_int8(run: Path, console: Console) -> dict[str, int] | None:
    """Return on how many test images of a fold only one of its float32 and int8 networks is right.

    `lost` is the float32 network, `gained` the int8 one; None where a fold has no int8 network.
    """
    files = RunFolder(run)
    if not files.int8_model.is_file():
        return None
    exact = Predictions.load(files.predictions)
    rounded = predict(open_classifier(run, "int8"), exact.records(), exact.raw, batch=BATCH, console=console)
    first, second = (answers.argmax(axis=1) == exact.labels for answers in (exact.probabilities, rounded))
    return {"images": len(first), "lost": int((first & ~second).sum()), "gained": int((second & ~first).sum())}


def pool(configs: Sequence[DictConfig], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Score the pooled predictions of all folds, and write the document and the pictures.

    Raises:
        DatasetError: an image is in the test part of two folds.
    """
    runs = [configuration.run_folder(config) for config in configs]
    folder = runs[0].parent
    parts = [Predictions.load(RunFolder(run).predictions) for run in runs]
    together = Predictions(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(Predictions)
            if field.name != "raw"
        },
        raw=parts[0].raw,
    )
    ids, times = np.unique(together.ids, return_counts=True)
    if times.max() > 1:
        raise DatasetError(f"{ids[times.argmax()]} is in two folds. Remove {folder} and cross-validate again")
    dataset = PreparedDataset.open(configuration.store_folder(configs[0]))
    patterns = configuration.plain(configs[0])["dataset"].get("label_parts") or {}
    document = {
        "name": str(folder.relative_to(RUNS)),
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        **evaluate.judge(together, dataset.classes, patterns),
        "int8": judge_int8_of_folds([result["int8"] for result in results]),
        "folds": [_fold(run, result) for run, result in zip(runs, results, strict=True)],
    }
    evaluate.draw(folder, together, dataset.classes)
    together.save(RunFolder(folder).pooled_predictions)
    write_json(RunFolder(folder).crossvalidation, document)
    return document


def judge_int8_of_folds(folds: Sequence[Mapping[str, int] | None]) -> dict[str, Any]:
    """Return what int8 loses on the test images of all folds, and whether that is known well enough to offer it."""
    from training import export  # brings torch

    counted = [fold for fold in folds if fold is not None]
    if len(counted) < len(folds):
        return {"offered": False, "why": f"{len(folds) - len(counted)} of {len(folds)} folds have no int8 network"}
    return export.judge_int8(
        {name: sum(fold[name] for fold in counted) for name in ("images", "lost", "gained")}, "out-of-fold"
    )


def _fold(run: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the report's entry of one fold; times in seconds."""
    trained = json.loads(RunFolder(run).training.read_text())
    return {
        "run": run.name,
        "images": metrics["images"],
        "mistakes": metrics["mistakes"],
        "top_1": metrics["top_1"],
        "train_seconds": trained["seconds"],
        "evaluate_seconds": metrics["seconds"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Cross-validate the recipe that the command line gives."""
    try:
        document = run(folds(sys.argv[1:] if arguments is None else arguments))
    except (configuration.ConfigurationError, DatasetError, TrainingError, OSError, ValueError) as error:
        print(f"error: {message_of(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    table = evaluate.table(document)
    for fold in document["folds"]:
        top = fold["top_1"]
        table.add_row(f"top 1 of {fold['run']}", f"{top['value']:.4f}", f"{top['low']:.4f} to {top['high']:.4f}")
    table_console().print(table)
    from training import export

    print(export.verdict(document["int8"]))
    return 0


if __name__ == "__main__":
    share_cores()
    sys.exit(main())
