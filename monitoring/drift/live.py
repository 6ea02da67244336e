"""Drift of one version of a model while it serves: windows over the newest images of all its workers.

    drift = LiveDrift(reference_of(archive))
    drift.values(copies)      metrics by name, each with its labels

A window is tested when it is full, again when newer images have come, and at most every `SECONDS`.
"""

import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from handlers.observation.recent import COLUMNS, Copy
from handlers.observation.reference import LEAST_ROWS, Reference
from handlers.observation.statistics import Statistics
from handlers.spec import REFERENCE
from monitoring.drift.verdict import Images, Verdict, judge

WINDOWS = (100, 500)  # images
SECONDS = 10.0

Values = list[tuple[str, Mapping[str, str], float]]


def reference_of(archive: Path) -> Reference | None:
    """Return the reference that an archive carries, or None without one.

    Raises:
        ArtifactError: it is damaged.
        OSError, BadZipFile: there is no such archive.
    """
    with zipfile.ZipFile(archive) as file:
        if REFERENCE not in file.namelist():
            return None
        return Reference.parse(file.read(REFERENCE), f"{REFERENCE} of {archive}")


class LiveDrift:
    """The newest verdicts on one version of a model, by the images of their windows."""

    def __init__(self, reference: Reference | None) -> None:
        self.reference = reference if reference is not None and len(reference) >= LEAST_ROWS else None
        self.verdicts: dict[int, Verdict] = {}
        self._tested = -float("inf")
        self._newest = -float("inf")

    def values(self, copies: Sequence[Copy], now: float | None = None) -> Values:
        """Return the metrics of the version, with labels beside those of the model, after a test if it is due.

        Args:
            copies: of the rings of its workers.
            now: monotonic time in seconds.
        """
        if self.reference is None:
            return [("sightline_drift_reference_images", {}, 0.0)]
        now = time.monotonic() if now is None else now
        if now - self._tested >= SECONDS:
            self._test(copies, self.reference, now)
        values: Values = [("sightline_drift_reference_images", {}, float(len(self.reference)))]
        for images, verdict in self.verdicts.items():
            values += [(name, {"window": str(images), **labels}, value) for name, labels, value in _metrics(verdict)]
        return values

    def _test(self, copies: Sequence[Copy], reference: Reference, now: float) -> None:
        rows = newest(copies, max(WINDOWS), len(reference.scale))
        if not len(rows) or (newest_time := float(rows[-1, COLUMNS.index("time")])) == self._newest:
            return
        self._tested, self._newest = now, newest_time
        self.verdicts = {size: judge(reference, images_of(rows[-size:])) for size in WINDOWS if len(rows) >= size}


def newest(copies: Sequence[Copy], count: int, width: int) -> torch.Tensor:
    """Return up to `count` rows (N, columns + width) of all workers, oldest first, with an embedding of that width."""
    whole = [torch.cat([copy.columns, copy.embeddings], dim=1) for copy in copies if copy.embeddings.shape[1] == width]
    if not whole:
        return torch.empty((0, len(COLUMNS) + width), dtype=torch.float64)
    rows = torch.cat(whole)
    rows = rows[rows[:, len(COLUMNS) :].isfinite().all(dim=1)]
    return rows[rows[:, COLUMNS.index("time")].argsort(stable=True)][-count:]


def images_of(rows: torch.Tensor) -> Images:
    """Return the images of rows (N, columns + width) of a ring."""
    columns = {name: rows[:, place].numpy() for place, name in enumerate(COLUMNS)}
    statistics = np.column_stack([columns[name] for name in Statistics._fields])
    answers = columns["place"].astype(np.int64)
    return Images(rows[:, len(COLUMNS) :].numpy(), statistics, columns["confidence"], answers)


def _metrics(verdict: Verdict) -> Iterable[tuple[str, Mapping[str, str], float]]:
    yield "sightline_drift_mmd", {}, verdict.embedding.value
    yield "sightline_drift_mmd_threshold", {}, verdict.embedding.threshold
    for kind in ("input shift", "label shift"):
        yield "sightline_drift_detected", {"kind": kind.partition(" ")[0]}, float(verdict.kind == kind)
    for name, column in verdict.columns.items():
        yield "sightline_drift_jensen_shannon", {"column": name}, column.jensen_shannon.value
        yield "sightline_drift_jensen_shannon_threshold", {"column": name}, column.jensen_shannon.threshold
        yield "sightline_drift_psi", {"column": name}, column.psi
    for bound in ("value", "low", "high"):
        yield "sightline_estimated_accuracy", {"bound": bound}, getattr(verdict.accuracy, bound)
    yield "sightline_estimated_accuracy_reliable", {}, float(verdict.reliable)
