"""The classes of a report: their images on each side, and their scores."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from training.data.splits import Split
from training.data.store import PreparedDataset
from training.report.summary import Score


@dataclasses.dataclass(frozen=True, slots=True)
class ClassRow:
    """A class: its training, validation and test images, and its scores; None without images to compute one from."""

    name: str
    train: int
    validation: int
    test: int
    recall: Score | None
    precision: Score | None
    f1: Score | None


def class_rows(data: PreparedDataset, split: Split, metrics: Mapping[str, Any]) -> list[ClassRow]:
    """Return the classes, those with the lowest recall first."""
    labels = np.asarray(data.labels)
    sides = (split.train, split.validation, split.test)
    counts = [np.bincount(labels[side][labels[side] >= 0], minlength=len(data.classes)) for side in sides]
    rows = []
    for number, name in enumerate(data.classes):
        scores = metrics["per_class"][name]
        train, validation, test = (int(count[number]) for count in counts)
        rows.append(ClassRow(name, train, validation, test, scores["recall"], scores["precision"], scores["f1"]))
    return sorted(rows, key=lambda row: 2.0 if row.recall is None else row.recall["value"])
