"""The report of a profile: tables and pictures as one HTML page."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from handlers.atomic import write_text
from training import pictures
from training.pages import template
from training.pages.thumbnails import data_url

TEMPLATE = Path(__file__).with_name("page.html")


def write(document: Mapping[str, Any], path: Path) -> None:
    """Write the page of a profile's document."""
    training = [row for row in document["training"] if "error" not in row]
    inference = [row for row in document["inference"] if "error" not in row]
    answers = [row for row in document["answers"] if "error" not in row]
    values = {
        **document,
        "machine": _machine(document["machine"]),
        "parts": list(training[0]["milliseconds"]) if training else [],
        "answer_parts": list(answers[0]["milliseconds"]) if answers else [],
        "training_picture": _training_picture(training),
        "inference_picture": _inference_picture(inference),
    }
    write_text(path, template.render(TEMPLATE, **values))


def _machine(machine: Mapping[str, Any]) -> str:
    processor = f"{machine['cores']} cores of {machine['processor']}"
    return f"{machine['gpu']} with {processor}" if "gpu" in machine else processor


def _training_picture(rows: Sequence[Mapping[str, Any]]) -> str:
    figure = Figure(figsize=(9, 1 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [f"{row['network']}, {row['form']}" for row in rows]
    ends = np.zeros(len(rows))
    for part in rows[0]["milliseconds"] if rows else ():
        widths = np.array([row["milliseconds"][part] / row["batch"] for row in rows])
        axes.barh(names, widths, left=ends, label=part)
        ends += widths
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds an image")
    if rows:
        figure.legend(loc="outside upper center", ncols=5, frameon=False)
    return _url(figure)


def _inference_picture(rows: Sequence[Mapping[str, Any]]) -> str:
    figure = Figure(figsize=(9, 1 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [f"{row['network']}, {row['form']}" for row in rows]
    bars = axes.barh(names, [row["images_per_second"] for row in rows], color=pictures.RIGHT)
    axes.bar_label(bars, padding=3, fmt="%.0f")
    axes.invert_yaxis()
    axes.set_xlabel("images/s, network only")
    return _url(figure)


def _url(figure: Figure) -> str:
    data = io.BytesIO()
    pictures.save(figure, data, dpi=90)
    return data_url("image/png", data.getvalue())
