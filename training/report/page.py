"""The page of a report, `runs/<name>/report.html`."""

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers import atomic
from handlers.run_folder import RunFolder
from training import pictures, scores
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset
from training.pages import template
from training.pages.thumbnails import Thumbnails, data_url
from training.predictions import Predictions
from training.report.class_table import class_rows
from training.report.confusion import confusion
from training.report.documents import Documents
from training.report.facts import data_facts, provenance_facts, training_facts
from training.report.forms import forms
from training.report.summary import main_scores

TEMPLATE = Path(__file__).with_name("page.html")


@dataclasses.dataclass(frozen=True, slots=True)
class Mistake:
    """An image with its true class and the answer, right or wrong."""

    url: str
    path: str
    true: str
    answer: str
    probability: float


def write(
    run: RunFolder, key: str, config: Mapping[str, Any], data: PreparedDataset, metrics: Mapping[str, Any]
) -> None:
    """Write the report of an evaluated run, with this key.

    Raises:
        DatasetError: the evaluation has no predictions, or a test image cannot be read any more.
        OSError: the file cannot be written.
    """
    atomic.write_text(run.report, render(run, key, config, data, metrics))


def render(
    run: RunFolder, key: str, config: Mapping[str, Any], data: PreparedDataset, metrics: Mapping[str, Any]
) -> str:
    """Return the page."""
    predictions = Predictions.load(run.predictions)
    split = data.split(SplitSpec.from_config(config["split"]))
    documents = Documents.read(run, metrics)
    thumbnails = Thumbnails(predictions.raw, data.colour, predictions.records().__getitem__)
    title, mistakes = _mistakes(predictions, data.classes, thumbnails)
    return template.render(
        TEMPLATE,
        key=key,
        name=metrics["name"],
        images=metrics["images"],
        wrong=metrics["mistakes"],
        scores=main_scores(metrics),
        data=data_facts(data, split),
        training=training_facts(documents),
        curves=data_url("image/png", run.curves.read_bytes()) if run.curves.is_file() else "",
        classes=data.classes,
        confusion=confusion(predictions, len(data.classes), thumbnails),
        mistakes_title=title,
        mistakes=mistakes,
        calibration=_calibration(predictions, metrics),
        class_rows=class_rows(data, split, metrics),
        forms=forms(run, documents),
        batches=list(next(iter(documents.speed.get("images_per_second", {}).values()), {})),
        threads=documents.speed.get("threads"),
        robustness=documents.robustness,
        heat_map=_heat_map(documents.robustness) if documents.robustness else "",
        full=f"make evaluate NAME={metrics['name']} ARGS=report=full",
        provenance=provenance_facts(run, documents),
        configuration=run.config.read_text(encoding="utf-8"),
    )


def _mistakes(predictions: Predictions, classes: tuple[str, ...], thumbnails: Thumbnails) -> tuple[str, list[Mistake]]:
    """Return a title and the most confident mistakes; without any, the least confident right answers."""
    rows, title = pictures.worst(predictions.probabilities, predictions.labels)
    answers = predictions.probabilities.argmax(axis=1)
    return title, [
        Mistake(
            thumbnails.url(row),
            str(predictions.paths[row]),
            classes[predictions.labels[row]],
            classes[answers[row]],
            float(predictions.probabilities[row, answers[row]]),
        )
        for row in rows.tolist()
    ]


def _calibration(predictions: Predictions, metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return reliability diagrams with captions: without the temperature, if it has one, and with it."""
    temperature = metrics["temperature"]
    diagrams = [(f"with the temperature {temperature:g}", _diagram(predictions.probabilities, predictions))]
    if temperature == 1:
        return [("the temperature is 1", diagrams[0][1])]
    unscaled = scores.unscaled(predictions.probabilities, predictions.temperatures)
    return [("without the temperature", _diagram(unscaled, predictions)), *diagrams]


def _heat_map(robustness: Mapping[str, Any]) -> str:
    """Return the top-1 of each corruption by strength, as a picture; the first column is without any."""
    clean, corruptions = robustness["top_1"]["value"], robustness["corruptions"]
    shares = np.array([[clean, *values] for values in corruptions.values()])
    picture = io.BytesIO()
    columns = ["none", *(str(strength) for strength in range(1, shares.shape[1]))]
    title = f"top-1 (%) by strength, {robustness['images']} test images"
    pictures.heat_map(shares, list(corruptions), columns, title, picture)
    return data_url("image/png", picture.getvalue())


def _diagram(probabilities: npt.NDArray[Any], predictions: Predictions) -> str:
    picture = io.BytesIO()
    right = probabilities.argmax(axis=1) == predictions.labels
    pictures.reliability(probabilities.max(axis=1), right, picture)
    return data_url("image/png", picture.getvalue())
