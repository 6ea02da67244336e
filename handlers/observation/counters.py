"""Counters and histograms of one worker, in a file that `monitoring.exporter` reads; names are those of Prometheus.

The file describes itself: workers of archives with an older `handlers` package count other things.
"""

import dataclasses
import logging
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.errors import RequestError
from handlers.observation import file
from handlers.observation.file import NumberFile
from handlers.observation.slot import Slot

SUFFIX = ".counters"
TRIES = 5  # of a reader whose file is being written
TENTHS = tuple(place / 10 for place in range(1, 10))
SHARES = (*TENTHS, 0.95, 0.99, 1.0)
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
IMAGES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
PIXELS = (1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8)
BYTES = (1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7)
SHARPNESS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)
STAGES = ("read", "decode", "network", "encode", "explain")
REASONS = ("BadRequest", "BadImage", "TooLarge", "UnsupportedFormat", "NoAnswer", "Busy")
LOG_REASONS = ("queue", "disk")
CODES = ("200", *sorted({str(error.code) for error in RequestError.__subclasses__()}))


@dataclasses.dataclass(frozen=True, slots=True)
class Metric:
    """A counter, or with `bounds` a histogram; one for each of the `values` of its `label`, if it has one.

    The numbers of a histogram are those of its buckets, the last without an upper bound, and the sum.
    """

    name: str
    help: str
    label: str = ""
    values: tuple[str, ...] = ("",)
    bounds: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Return how many numbers one value has."""
        return len(self.bounds) + 2 if self.bounds else 1

    @property
    def numbers(self) -> int:
        """Return how many numbers all values have."""
        return len(self.values) * self.width


def metrics(classes: Sequence[str]) -> tuple[Metric, ...]:
    """Return the metrics of a worker of a model with these classes."""
    names = tuple(classes)
    return (
        Metric("sightline_predictions_total", "Images by the class that was answered first.", "class", names),
        Metric("sightline_confidence_sum_total", "Probabilities of the first class, summed.", "class", names),
        Metric("sightline_refused_images_total", "Images and bodies without an answer.", "reason", (*REASONS, "other")),
        Metric("sightline_requests_total", "Requests by the HTTP status of the reply.", "code", (*CODES, "other")),
        Metric("sightline_log_dropped_total", "Images that the prediction log lacks.", "reason", LOG_REASONS),
        Metric("sightline_worker_restarts_total", "Workers that took the place of one that had ended."),
        Metric("sightline_confidence", "Probability of the first class.", bounds=SHARES),
        Metric("sightline_familiarity", "Share of validation images that are at least as far.", bounds=(0.05, *SHARES)),
        Metric("sightline_image_brightness", "Mean of all channels, white is 1.", bounds=TENTHS),
        Metric("sightline_image_contrast", "Standard deviation of all channels.", bounds=(0.05, *TENTHS[:5])),
        Metric("sightline_image_sharpness", "Mean absolute Laplacian.", bounds=SHARPNESS),
        Metric("sightline_image_pixels", "Width times height of the encoded image.", bounds=PIXELS),
        Metric("sightline_image_bytes", "Size of the encoded image.", bounds=BYTES),
        Metric("sightline_stage_seconds", "Time of each stage of a batch.", "stage", STAGES, SECONDS),
        Metric("sightline_batch_requests", "Requests in a batch.", bounds=IMAGES),
        Metric("sightline_batch_images", "Images in a batch.", bounds=IMAGES),
    )


class Histogram:
    """One histogram of `Counters`, for the label value at a place."""

    def __init__(self, numbers: "array[float]", start: int, bounds: Sequence[float]) -> None:
        self._numbers, self._start, self._bounds = numbers, start, bounds

    def observe(self, value: float, weight: float = 1.0) -> None:
        """Add an observation that counts `weight` times."""
        self._numbers[self._start + bisect_left(self._bounds, value)] += weight
        self._numbers[self._start + len(self._bounds) + 1] += value * weight


class Counters:
    """The counters of this process.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, slot: Slot, name: str, version: str, classes: Sequence[str]) -> None:
        self.metrics = metrics(classes)
        about = {"model": name, "version": version, "metrics": [dataclasses.asdict(metric) for metric in self.metrics]}
        self._starts: dict[str, int] = {}
        count = 1  # batches, as the first and the last number: a reader sees that the file is being written
        for metric in self.metrics:
            self._starts[metric.name] = count
            count += metric.numbers
        self._by_name = {metric.name: metric for metric in self.metrics}
        self._file = NumberFile(slot.stem.with_suffix(SUFFIX), about, count + 1)
        self.numbers = self._file.numbers()
        self._failed = False
        if slot.used:
            self.add("sightline_worker_restarts_total")
        self.write()

    def places(self, name: str) -> dict[str, int]:
        """Return the place among `numbers` of each label value of a counter."""
        return {value: self._starts[name] + place for place, value in enumerate(self._by_name[name].values)}

    def add(self, name: str, value: float = 1.0, place: int = 0) -> None:
        """Add to the counter of the label value at `place`."""
        self.numbers[self._starts[name] + place] += value

    def histogram(self, name: str, place: int = 0) -> Histogram:
        """Return the histogram of the label value at `place`."""
        metric = self._by_name[name]
        return Histogram(self.numbers, self._starts[name] + place * metric.width, metric.bounds)

    def observe(self, name: str, value: float, place: int = 0) -> None:
        """Add an observation to the histogram of the label value at `place`."""
        self.histogram(name, place).observe(value)

    def write(self) -> None:
        """End a batch: write all numbers. A failure is logged once; a later write catches up."""
        self.numbers[0] += 1
        self.numbers[-1] = self.numbers[0]
        try:
            self._file.write(self.numbers)
        except OSError as error:
            if not self._failed:
                logging.getLogger(__name__).warning("metrics are not written at present: %s", error)
            self._failed = True


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """The counters of one worker, as they were when its file was read."""

    model: str
    version: str
    metrics: tuple[Metric, ...]
    numbers: "array[float]"

    @classmethod
    def read(cls, path: Path) -> "Snapshot":
        """Return the counters of a file.

        Raises:
            OSError, ValueError, KeyError, TypeError: there is no such file, or it is not complete or damaged.
        """
        for _ in range(TRIES):
            about, numbers = file.read(path)
            if numbers and numbers[0] == numbers[-1]:
                break
        return cls(about["model"], about["version"], tuple(_metric(entry) for entry in about["metrics"]), numbers)

    def __iter__(self) -> Iterator[tuple[Metric, "array[float]"]]:
        """Yield each metric with its numbers, those of all its label values."""
        start = 1
        for metric in self.metrics:
            yield metric, self.numbers[start : start + metric.numbers]
            start += metric.numbers


def _metric(entry: Mapping[str, Any]) -> Metric:
    return Metric(entry["name"], entry["help"], entry["label"], tuple(entry["values"]), tuple(entry["bounds"]))
