"""The distributions of current and validation images, by Evidently, as one HTML page.

Evidently knows no images: it gets their statistics, confidence, familiarity and class. It is imported only here, and
only if a page is asked for; importing it changes NumPy's own tables, so call this in a process that ends soon.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from handlers.observation.reference import LEAST_ROWS, Reference
from handlers.observation.statistics import Statistics
from monitoring.drift.sample import Sample
from monitoring.drift.verdict import LEVEL, Images
from serving.errors import ServingError

NUMBERS = (*Statistics._fields, "confidence", "familiarity")
CLASS = "class"
INSTALL = ".venv/bin/uv pip install --require-hashes -r requirements-drift.txt"


class NotInstalled(ServingError):
    """Evidently is missing."""


def check_installed() -> None:
    """Raise NotInstalled without Evidently."""
    if importlib.util.find_spec("evidently") is None:
        raise NotInstalled(f"the report needs Evidently: install it with {INSTALL}")


def page(reference: Reference, sample: Sample, classes: Sequence[str]) -> str:
    """Return the page; with fewer than `LEAST_ROWS` current images it describes them, without a test.

    Raises:
        NotInstalled: Evidently is missing.
    """
    check_installed()
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift
    from evidently.presets import ValueStats

    current, validation = _columns(sample.images, classes), _columns(Images.of(reference), classes)
    current["familiarity"] = sample.familiarities
    # Familiarity is a share of the validation images, so theirs are evenly spread.
    validation["familiarity"] = (np.arange(len(reference)) + 0.5) / len(reference)
    numbers = [name for name in NUMBERS if np.isfinite(np.asarray(current[name])).all()]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=[CLASS])
    frames = (pd.DataFrame({name: part[name] for name in (*numbers, CLASS)}) for part in (current, validation))
    datasets = [Dataset.from_pandas(frame, data_definition=definition) for frame in frames]
    methods = dict.fromkeys(numbers, "ks") | {CLASS: "chisquare"}
    metrics: list[Any] = []
    for name, method in methods.items():
        if len(sample) >= LEAST_ROWS:
            metrics.append(ValueDrift(column=name, method=method, threshold=LEVEL))
        metrics.append(ValueStats(column=name))
    snapshot = Report(metrics).run(*datasets)
    return str(snapshot.get_html_str(as_iframe=False))


def _columns(images: Images, classes: Sequence[str]) -> dict[str, Any]:
    # Evidently pastes labels into a script: one with a tag in it would end that.
    labels = [label.replace("<", "< ") for label in classes]
    statistics = dict(zip(Statistics._fields, images.statistics.T, strict=True))
    return {**statistics, "confidence": images.confidences, CLASS: [labels[place] for place in images.answers]}
