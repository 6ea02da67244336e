"""Counts the images and answers of a worker, if its server has a folder for that; it never costs an answer.

Counters are written with each batch: a worker that is killed loses its current one at most. Histograms, and statistics
and rows of a sample of the images, follow in a thread: many at once take a fraction of the time, since the network
empties the caches between two batches.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from handlers.errors import RequestError
from handlers.observation import counters
from handlers.observation.counters import CODES, LOG_REASONS, Counters
from handlers.observation.log import Log
from handlers.observation.recent import Recent, Row, or_nan
from handlers.observation.sampling import Sampling
from handlers.observation.slot import VARIABLE, Slot
from handlers.observation.statistics import Statistics
from handlers.requests.labels import Labels
from handlers.requests.payload import Image
from handlers.settings import Settings

UNKNOWN = (float("nan"),) * 3
PERIOD = 0.2  # seconds that observations wait for others


class Outcome(NamedTuple):
    """Status, answers and images of one request; a body without images has its error as answer.

    `request_id` is empty if it is not logged, `trace_id` if it belongs to no trace, and `top_k` is the number of labels
    that it asked for.
    """

    code: int
    answers: Sequence[Labels | RequestError]
    images: Sequence[Image]
    request_id: str = ""
    top_k: int | None = None
    trace_id: str = ""


class Waiting:
    """Observations that are not counted yet: as numbers, since images would fill the memory."""

    def __init__(self) -> None:
        self.answers: list[tuple[float, float | None, int]] = []  # confidence, familiarity, pixels
        self.sizes: list[int] = []  # of encoded images
        self.batches: list[tuple[int, int, Mapping[str, float]]] = []  # requests, images, seconds of the stages


class Observer:
    """The counters and the newest images of this process.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, name: str, version: str, classes: Sequence[str], width: int = 0, *, settings: Settings
    ) -> None:
        slot = Slot.take(folder, name, version)
        try:
            self.counters = Counters(slot, name, version, classes)
            self.recent = Recent(slot, name, version, width)
        except OSError:
            slot.release()
            raise
        places, histogram = self.counters.places, self.counters.histogram
        self._classes = {label: place for place, label in enumerate(classes)}
        self._predictions = places("sightline_predictions_total")
        self._confidences = places("sightline_confidence_sum_total")
        self._codes, self._reasons = places("sightline_requests_total"), places("sightline_refused_images_total")
        self._confidence, self._familiarity = histogram("sightline_confidence"), histogram("sightline_familiarity")
        self._pixels, self._bytes = histogram("sightline_image_pixels"), histogram("sightline_image_bytes")
        self._requests, self._images = histogram("sightline_batch_requests"), histogram("sightline_batch_images")
        self._stages = {
            stage: histogram("sightline_stage_seconds", place) for place, stage in enumerate(counters.STAGES)
        }
        self._statistics = [histogram(f"sightline_image_{name}") for name in Statistics._fields]
        self._waiting = Waiting()
        self._sampling = Sampling()
        self._lock, self._flushing, self._filled = threading.Lock(), threading.Lock(), threading.Event()
        self._fault: Exception | None = None
        threading.Thread(target=self._run, name="observer", daemon=True).start()
        self.log = Log.of_environment(name, version, settings, self._not_logged)

    @classmethod
    def of_environment(
        cls, name: str, version: str, classes: Sequence[str], width: int = 0, *, settings: Settings
    ) -> Self | None:
        """Return an observer that writes to the server's folder, or None if there is no such folder."""
        folder = os.environ.get(VARIABLE)
        if not folder:
            return None
        try:
            return cls(Path(folder), name, version, classes, width, settings=settings)
        except OSError as error:
            logging.getLogger(__name__).warning("%s %s is served without metrics: %s", name, version, error)
            return None

    def batch(self, outcomes: Sequence[Outcome], seconds: Mapping[str, float]) -> None:
        """Count the requests of one batch, and the seconds of its stages."""
        if self._fault is not None:
            raise self._fault
        with self._lock:
            self._count(outcomes, seconds)
            self.counters.write()
        if not self._filled.is_set():
            self._filled.set()

    def _count(self, outcomes: Sequence[Outcome], seconds: Mapping[str, float]) -> None:
        numbers, waiting, images = self.counters.numbers, self._waiting, len(self._waiting.sizes)
        for outcome in outcomes:
            numbers[self._codes.get(str(outcome.code), self._codes["other"])] += 1
            for answer in outcome.answers:
                if isinstance(answer, RequestError):
                    numbers[self._reasons.get(answer.kind, self._reasons["other"])] += 1
                    continue
                label, confidence = next(iter(answer.items()))
                numbers[self._predictions[label]] += 1
                numbers[self._confidences[label]] += confidence
                waiting.answers.append((confidence, answer.familiarity, answer.pixels))
                self._sampling.add(answer)
            waiting.sizes += [len(image) for image in outcome.images if not isinstance(image, RequestError)]
            if self.log is not None and outcome.request_id:
                self.log.add(outcome.request_id, outcome.answers, outcome.images, outcome.top_k, outcome.trace_id)
        waiting.batches.append((len(outcomes), len(waiting.sizes) - images, seconds))

    def flush(self) -> None:
        """Count and write the observations that wait."""
        with self._flushing:
            with self._lock:
                answers, waiting, self._waiting = self._sampling.take(), self._waiting, Waiting()
            measured, weight = self._sampling.measure(answers)
            with self._lock:
                self._observe(waiting)
                for answer in measured:
                    for statistic, value in zip(self._statistics, answer.statistics or (), strict=False):
                        statistic.observe(value, weight)
                self.counters.write()
            self.recent.add(map(self._row, measured))

    def _observe(self, waiting: Waiting) -> None:
        for confidence, familiarity, pixels in waiting.answers:
            self._confidence.observe(confidence)
            if familiarity is not None:
                self._familiarity.observe(familiarity)
            if pixels:
                self._pixels.observe(pixels)
        for size in waiting.sizes:
            self._bytes.observe(size)
        for requests, images, seconds in waiting.batches:
            self._requests.observe(requests)
            self._images.observe(images)
            for stage, duration in seconds.items():
                self._stages[stage].observe(duration)

    def _run(self) -> None:
        pause = threading.Event()  # time.sleep raises under libfaketime, and its error would end the metrics
        try:
            while True:
                self._filled.wait()
                pause.wait(PERIOD)
                self._filled.clear()
                self.flush()
        except Exception as error:  # `batch` raises it
            self._fault = error

    def failed(self, requests: int) -> None:
        """Count the requests of a batch that raised: TorchServe answers 503 to all of them."""
        with self._lock:
            self.counters.add("sightline_requests_total", requests, CODES.index("503"))
            self.counters.write()

    def _not_logged(self, reason: str) -> None:
        self.counters.add("sightline_log_dropped_total", place=LOG_REASONS.index(reason))

    def _row(self, answer: Labels) -> Row:
        label, confidence = next(iter(answer.items()))
        return Row(
            *(time.time(), self._classes[label], confidence, or_nan(answer.familiarity)),
            *(answer.statistics or UNKNOWN),
            pixels=answer.pixels or float("nan"),
            embedding=answer.embedding,
        )
