"""Evaluate a trained model on its test images, from their encoded bytes, with the same code that serves them.

    python -m training.evaluate name=<run> [batch=64] [report=full]

Reads `runs/<run>/config.yaml` and `model.pt` and the prepared data set that it was trained on. Writes, in
`runs/<run>/evaluation/`:

    metrics.json           top-1, top-5, macro-F1, each class, calibration error with the temperature and without it
                           (unscaled), each with a 95 % interval
    scores.json            the main scores without intervals
    predictions.npz        probabilities (N, K) float32, labels, ids, and the location of each image's bytes
    confusion.png, reliability.png, mistakes.png

and `runs/<run>/report.html`, a page that shows all of it (see `training.report`). With report=full, also

    robustness.json        top-1 on 200 test images with ten corruptions at five strengths
    speed.json             images/s of the network in each precision

which takes minutes. They are shown from then on, until the evaluation changes.

A data set whose class names say several things (`3L`: a count and a hand) has each scored separately, by the patterns
of `dataset.label_parts` in its configuration. Test images without a label are not scored. If all this is up to date,
nothing runs and torch is not imported.
"""

import contextlib
import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table
from yaml import YAMLError

from handlers import naming
from handlers.atomic import write_json
from handlers.machine import share_cores
from handlers.run_folder import RUNS, RunFolder
from training import configuration
from training.console import message_of, table_console
from training.data.progress import plain_console
from training.data.records import DatasetError, Record
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset
from training.finished_run import check_data
from training.predictions import Predictions, decode, open_classifier, predict
from training.report.documents import document
from training.report.identity import is_current, measured_key, report_key
from training.report.summary import main_scores

if TYPE_CHECKING:
    from handlers.classifier import Classifier

# A change of these, and of what answers, makes evaluations out of date.
CODE = ("evaluate.py", "pictures.py", "predictions.py", "scores.py")
HANDLERS = Path(__file__).parents[1] / "handlers"


def run(folder: Path, *, batch: int = 64, full: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Evaluate the run in `folder`, `batch` images at a time, and return what `metrics.json` then holds.

    The report is written too, with `full` also its robustness and speed.

    Raises:
        ConfigurationError: the run is not trained or not exported.
        DatasetError: the data set is not prepared or another one than it was trained on, has no labelled test image, or
            an image's bytes have gone.
    """
    console = console or plain_console()
    config, dataset = trained(folder)
    files, key = RunFolder(folder), _key(folder, dataset.fingerprint)
    metrics = document(files.metrics, key)
    if metrics:
        console.print(f"{files.metrics} is up to date", highlight=False)
    else:
        metrics = _evaluate(folder, config, dataset, key, batch, console)
    if full:
        _measure(files, metrics, console)
    _report(files, config, dataset, metrics, console)
    return metrics


def _evaluate(
    folder: Path, config: Mapping[str, Any], dataset: PreparedDataset, key: str, batch: int, console: Console
) -> dict[str, Any]:
    """Answer and score the test images, write the files of the evaluation, and return the metrics."""
    rows = _labelled_test_images(dataset, SplitSpec.from_config(config["split"]))
    classifier = answering(folder, dataset)
    records = [dataset.record(int(row)) for row in rows]
    started = time.perf_counter()
    probabilities = predict(classifier, records, dataset.raw, batch=batch, console=console)
    seconds = time.perf_counter() - started

    temperature = classifier.spec.temperature
    predictions = Predictions.of(probabilities, temperature, dataset.labels[rows], records, dataset.raw)
    metrics = {"name": config["name"], "key": key, "fingerprint": dataset.fingerprint, "seconds": seconds}
    metrics["temperature"] = temperature
    metrics |= judge(predictions, dataset.classes, config["dataset"].get("label_parts") or {})
    # The metrics are written last: if they exist, all files beside them are of the same evaluation.
    files = RunFolder(folder)
    files.evaluation.mkdir(exist_ok=True)
    files.metrics.unlink(missing_ok=True)
    predictions.save(files.predictions)
    draw(files.evaluation, predictions, dataset.classes)
    _draw_mistakes(files.mistakes, predictions, records, classifier, dataset)
    write_json(files.scores, {name: score["value"] for name, score in main_scores(metrics)})
    write_json(files.metrics, metrics)
    return metrics


def _measure(files: RunFolder, metrics: Mapping[str, Any], console: Console) -> None:
    """Measure robustness and speed, unless they were measured for this evaluation."""
    from training.report import robustness, speed  # bring torch

    key = measured_key(metrics["key"])
    for path, measure in ((files.robustness, robustness.measure), (files.speed, speed.measure)):
        if not document(path, key):
            write_json(path, {"key": key, **measure(files, console)})


def _report(
    files: RunFolder, config: Mapping[str, Any], dataset: PreparedDataset, metrics: Mapping[str, Any], console: Console
) -> None:
    """Write the report unless it is up to date; if it cannot be written, say so: the metrics are written."""
    key = report_key(files, metrics["key"])
    if is_current(files, key):
        return
    from training.report import page, tracking  # scikit-learn and matplotlib take a second to import

    try:
        page.write(files, key, config, dataset, metrics)
    except Exception as error:  # whatever is wrong with a page, its metrics are written
        with contextlib.suppress(OSError):
            files.report.unlink()  # it shows another evaluation
        reason = f"{type(error).__name__}: {error}"
        console.print(f"warning: {files.report} was not written: {reason}", highlight=False)
        return
    if config.get("tracking", {}).get("kind") != "wandb":
        return
    try:
        tracking.log(files, config)
    except Exception as error:  # wandb has many; the page is written
        remedy = "remove it and evaluate again to log it"
        console.print(f"warning: {files.report} is not in Weights & Biases: {error}; {remedy}", highlight=False)


def trained(folder: Path) -> tuple[dict[str, Any], PreparedDataset]:
    """Return the configuration of a run that was trained and exported, and the data set that it was trained on.

    Raises:
        ConfigurationError: it was not.
        DatasetError: the data set is not prepared.
    """
    config = configuration.load(folder)
    if not (model := RunFolder(folder).model).is_file():
        command = f"make train NAME={config.name} DATASET={config.dataset.name}"
        raise configuration.ConfigurationError(f"{model} does not exist: train and export it ({command})")
    return configuration.plain(config), PreparedDataset.open(configuration.store_folder(config))


def answering(folder: Path, dataset: PreparedDataset) -> "Classifier":
    """Return the classifier of a run that was trained on this very data set.

    Raises:
        ConfigurationError: its artifact cannot be read.
        DatasetError: it was trained on other data: its training images may be among the test images here.
    """
    classifier = open_classifier(folder)
    check_data(RunFolder(folder).model, classifier.spec, dataset)
    return classifier


def _labelled_test_images(dataset: PreparedDataset, spec: SplitSpec) -> npt.NDArray[np.int64]:
    rows = dataset.split(spec).test
    rows = rows[dataset.labels[rows] >= 0]
    if not len(rows):
        raise DatasetError(
            f"{dataset.folder}: no test image has a label, so there is nothing to evaluate. "
            "Train with split.test=folds, or write a submission with `python -m training.submission`"
        )
    return rows


def judge(predictions: Predictions, classes: Sequence[str], patterns: Mapping[str, str]) -> dict[str, Any]:
    """Return the scores of labelled predictions; with `patterns`, those of each part of the class names too."""
    from training import scores  # scikit-learn and SciPy take a second to import

    metrics = scores.score(predictions.probabilities, predictions.labels, classes)
    unscaled = scores.unscaled(predictions.probabilities, predictions.temperatures)
    metrics["calibration_error_unscaled"] = scores.plain(scores.calibration_estimate(unscaled, predictions.labels))
    if patterns:
        metrics["parts"] = scores.parts(predictions.probabilities, predictions.labels, classes, patterns)
    return metrics


def draw(folder: Path, predictions: Predictions, classes: Sequence[str]) -> None:
    """Draw what needs no images: the confusion matrix and the reliability diagram."""
    from training import pictures  # matplotlib takes a second to import

    answers: npt.NDArray[np.int64] = predictions.probabilities.argmax(axis=1)
    pictures.confusion_matrix(predictions.labels, answers, classes, folder / "confusion.png")
    right = answers == predictions.labels
    pictures.reliability(predictions.probabilities.max(axis=1), right, folder / "reliability.png")


def _draw_mistakes(
    path: Path, predictions: Predictions, records: Sequence[Record], classifier: "Classifier", dataset: PreparedDataset
) -> None:
    from training import pictures

    shown, title = pictures.worst(predictions.probabilities, predictions.labels)
    probabilities = predictions.probabilities[shown]
    pictures.contact_sheet(
        [image.numpy() for image in decode(classifier, [records[row] for row in shown], dataset.raw)],
        [dataset.classes[k] for k in predictions.labels[shown]],
        [dataset.classes[k] for k in probabilities.argmax(axis=1)],
        [float(value) for value in probabilities.max(axis=1)],
        title,
        path,
    )


def _key(folder: Path, fingerprint: str) -> str:
    """Return a hash of all that made an evaluation: the artifact, the configuration, the images and this code."""
    key = hashlib.sha256(fingerprint.encode())
    code = [*(Path(__file__).with_name(name) for name in CODE), *sorted(HANDLERS.rglob("*.py"))]
    files = RunFolder(folder)
    for path in (files.model, files.config, *code):
        with open(path, "rb") as file:
            key.update(hashlib.file_digest(file, "sha256").digest())
    return key.hexdigest()[:32]


def table(metrics: Mapping[str, Any]) -> Table:
    """Return a printable table of the main scores."""
    shown = Table("score", "value", "95 % interval", title=f"{metrics['name']}: {metrics['images']:,} test images")
    for name, score in main_scores(metrics):
        shown.add_row(name, f"{score['value']:.4f}", f"{score['low']:.4f} to {score['high']:.4f}")
    return shown


def settings(arguments: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return `defaults` changed by `key=value` arguments; a value has its default's type, and `name` is needed.

    Text is taken as it is, as in `configuration.compose`.

    Raises:
        ConfigurationError: a setting is not known or of another type, or `name` is missing.
    """
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals:
            raise configuration.ConfigurationError(f"give settings as key=value, not {argument!r}")
        if key not in defaults:
            raise configuration.ConfigurationError(f"{key!r} is not a setting; known: {', '.join(defaults)}")
        is_text = type(defaults[key]) is str
        values[key] = configuration.unquoted(text) if is_text else _typed(key, text, defaults[key])
    if not values.get("name"):
        raise configuration.ConfigurationError("name=<run> is missing: it names the folder below runs/")
    if fault := naming.fault_of_run(values["name"]):
        raise configuration.ConfigurationError(fault)
    return {**defaults, **values}


def _typed(key: str, text: str, default: object) -> object:
    wrong = configuration.ConfigurationError(f"{key}={text}: it must be like {key}={default}")
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise wrong from error
    assert isinstance(value, dict)
    kinds = (int, float) if type(default) is float else (type(default),)
    if type(value["value"]) not in kinds:
        raise wrong
    return value["value"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate the run that the command line names."""
    try:
        options = settings(
            sys.argv[1:] if arguments is None else arguments, {"name": "", "batch": 64, "report": "short"}
        )
        if options["batch"] < 1:
            raise configuration.ConfigurationError(f"batch={options['batch']}: it must be at least 1")
        if options["report"] not in ("short", "full"):
            raise configuration.ConfigurationError(f"report={options['report']}: write report=short or report=full")
        metrics = run(RUNS / options["name"], batch=options["batch"], full=options["report"] == "full")
    except (configuration.ConfigurationError, DatasetError, OSError, ValueError) as error:
        print(f"error: {message_of(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted. Give the same command again: finished parts are kept", file=sys.stderr)
        return 130
    table_console().print(table(metrics))
    if (report := RunFolder.of(options["name"]).report).is_file():
        print(f"report: {report}")
    return 0


if __name__ == "__main__":
    share_cores()
    sys.exit(main())
