"""Drift of each version of each model for Prometheus."""

import logging
import math
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from prometheus_client import Metric as Family
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from handlers.errors import ArtifactError
from handlers.observation import slot
from handlers.observation.recent import SUFFIX, Copy
from monitoring.drift.live import LiveDrift, reference_of
from monitoring.drift.verdict import Verdict
from serving.store import model_store

RETRY = 60.0  # seconds
VERSION = ("model", "version")
WINDOW = (*VERSION, "window")
# Name, labels and help of each.
GAUGES = {
    "sightline_drift_reference_images": (VERSION, "Validation images for comparison, 0 without a reference."),
    "sightline_drift_detected": ((*WINDOW, "kind"), "1 for the kind of shift that the window shows: input or label."),
    "sightline_drift_mmd": (WINDOW, "Squared kernel MMD between the embeddings of window and reference."),
    "sightline_drift_mmd_threshold": (WINDOW, "MMD that 3 unchanged windows in 1,000 exceed."),
    "sightline_drift_class_excess": (WINDOW, "Excess of the class that has become most frequent."),
    "sightline_drift_class_excess_threshold": (WINDOW, "Excess that 2 unchanged windows in 1,000 exceed."),
    "sightline_drift_jensen_shannon": ((*WINDOW, "column"), "Distance between the histograms of a column, 0 to 1."),
    "sightline_drift_jensen_shannon_threshold": ((*WINDOW, "column"), "Distance that one such window in 200 exceeds."),
    "sightline_drift_psi": ((*WINDOW, "column"), "Population stability index of the histograms."),
    "sightline_estimated_accuracy": (WINDOW, "Share of right answers, estimated without labels."),
    "sightline_estimated_accuracy_low": (WINDOW, "Lower end of its 95 % interval."),
    "sightline_estimated_accuracy_high": (WINDOW, "Upper end of its 95 % interval."),
    "sightline_estimated_accuracy_reliable": (WINDOW, "Whether the images are near enough to the reference for it."),
}

Key = tuple[str, str]


class DriftMetrics(Collector):
    """Tests the windows of all versions that have served, at a scrape.

    Args:
        folder: returns that of the workers' files, None without a server.
        store: the archives.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, folder: Callable[[], Path | None], store: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._store, self._clock = folder, store, clock
        self._drifts: dict[Key, LiveDrift] = {}
        self._retries: dict[Key, float] = {}  # when to read a reference again that could not be read
        self._lock = threading.Lock()  # two scrapes at the same time

    def collect(self) -> Iterator[Family]:
        """Yield a family for each metric."""
        gauges = {name: GaugeMetricFamily(name, text, labels=labels) for name, (labels, text) in GAUGES.items()}
        with self._lock:
            rings = _rings(self._folder())
            self._drifts = {key: self._drift(key) for key in rings}
            for key, drift in self._drifts.items():
                count = len(drift.reference) if drift.reference is not None else 0
                gauges["sightline_drift_reference_images"].add_metric(key, count)
                for images, verdict in drift.verdicts(partial(_copies, rings[key])).items():
                    _add(gauges, (*key, str(images)), verdict)
        yield from gauges.values()

    def _drift(self, key: Key) -> LiveDrift:
        """Return the drift of a version; one whose reference could not be read is tried again every `RETRY`."""
        if key in self._drifts and self._clock() < self._retries.get(key, math.inf):
            return self._drifts[key]
        reference = None
        try:
            reference = reference_of(model_store.path_of(*key, self._store))
            self._retries.pop(key, None)
        except (ArtifactError, OSError, zipfile.BadZipFile) as error:
            if key not in self._retries:
                logging.getLogger(__name__).warning("%s %s is not watched for drift at present: %s", *key, error)
            self._retries[key] = self._clock() + RETRY
        return LiveDrift(reference)


def _rings(folder: Path | None) -> dict[Key, list[Path]]:
    """Return the rings of each version, which has a folder below that of its model."""
    rings: dict[Key, list[Path]] = defaultdict(list)
    for path in slot.files(folder, SUFFIX) if folder is not None else ():
        rings[path.parts[-3], path.parts[-2]].append(path)
    return rings


def _copies(paths: Sequence[Path]) -> list[Copy]:
    copies = []
    for path in paths:
        try:
            copies.append(Copy.read(path))
        except (OSError, ValueError, KeyError, TypeError):  # a worker is starting, or its version was removed
            continue
    return copies


def _add(gauges: dict[str, GaugeMetricFamily], labels: tuple[str, str, str], verdict: Verdict) -> None:
    values = {
        "drift_mmd": verdict.embedding.value,
        "drift_mmd_threshold": verdict.embedding.threshold,
        "drift_class_excess": verdict.classes.value,
        "drift_class_excess_threshold": verdict.classes.threshold,
        "estimated_accuracy": verdict.accuracy.value,
        "estimated_accuracy_low": verdict.accuracy.low,
        "estimated_accuracy_high": verdict.accuracy.high,
        "estimated_accuracy_reliable": float(verdict.reliable),
    }
    for name, value in values.items():
        gauges[f"sightline_{name}"].add_metric(labels, value)
    for kind in ("input", "label"):
        gauges["sightline_drift_detected"].add_metric((*labels, kind), float(verdict.kind == f"{kind} shift"))
    for name, column in verdict.columns.items():
        distance = column.jensen_shannon
        gauges["sightline_drift_jensen_shannon"].add_metric((*labels, name), distance.value)
        gauges["sightline_drift_jensen_shannon_threshold"].add_metric((*labels, name), distance.threshold)
        gauges["sightline_drift_psi"].add_metric((*labels, name), column.psi)
