"""Counts the images and answers of a worker, if its server has a folder for that; it never costs an answer."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from handlers.errors import RequestError
from handlers.observation import counters
from handlers.observation.counters import LOG_REASONS, Counters
from handlers.observation.log import Log
from handlers.observation.recent import Recent, Row, or_nan
from handlers.observation.slot import VARIABLE, Slot
from handlers.requests.labels import Labels
from handlers.requests.payload import Image
from handlers.settings import Settings

UNKNOWN = (float("nan"),) * 3


class Outcome(NamedTuple):
    """Status, answers and images of one request; a body without images has its error as answer.

    `request_id` is empty if it is not logged, and `top_k` is the number of labels that it asked for.
    """

    code: int
    answers: Sequence[Labels | RequestError]
    images: Sequence[Image]
    request_id: str = ""
    top_k: int | None = None


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
        self._places = {label: place for place, label in enumerate(classes)}
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
        now = time.time()
        add, observe = self.counters.add, self.counters.observe
        rows, images = [], 0
        for outcome in outcomes:
            add("sightline_requests_total", place=_place(counters.CODES, str(outcome.code)))
            for answer in outcome.answers:
                if isinstance(answer, RequestError):
                    add("sightline_refused_images_total", place=_place(counters.REASONS, answer.kind))
                else:
                    rows.append(self._answered(answer, now))
            sizes = [len(image) for image in outcome.images if not isinstance(image, RequestError)]
            for size in sizes:
                observe("sightline_image_bytes", size)
            images += len(sizes)
            if self.log is not None and outcome.request_id:
                self.log.add(outcome.request_id, outcome.answers, outcome.images, outcome.top_k)
        for stage, duration in seconds.items():
            observe("sightline_stage_seconds", duration, counters.STAGES.index(stage))
        observe("sightline_batch_requests", len(outcomes))
        observe("sightline_batch_images", images)
        self.counters.write()
        self.recent.add(rows)

    def failed(self, requests: int) -> None:
        """Count the requests of a batch that raised: TorchServe answers 503 to all of them."""
        self.counters.add("sightline_requests_total", requests, _place(counters.CODES, "503"))
        self.counters.write()

    def _not_logged(self, reason: str) -> None:
        self.counters.add("sightline_log_dropped_total", place=LOG_REASONS.index(reason))

    def _answered(self, answer: Labels, now: float) -> Row:
        add, observe = self.counters.add, self.counters.observe
        label, confidence = next(iter(answer.items()))
        place = self._places[label]
        add("sightline_predictions_total", place=place)
        add("sightline_confidence_sum_total", confidence, place)
        observe("sightline_confidence", confidence)
        if answer.familiarity is not None:
            observe("sightline_familiarity", answer.familiarity)
        if answer.pixels:
            observe("sightline_image_pixels", answer.pixels)
        if answer.statistics is not None:
            for name, value in zip(answer.statistics._fields, answer.statistics, strict=True):
                observe(f"sightline_image_{name}", value)
        return Row(
            *(now, place, confidence, or_nan(answer.familiarity)),
            *(answer.statistics or UNKNOWN),
            pixels=answer.pixels or float("nan"),
            embedding=answer.embedding,
        )


def _place(values: Sequence[str], value: str) -> int:
    """Return the place of a label value, that of "other" behind them for an unknown one."""
    return values.index(value) if value in values else len(values)
