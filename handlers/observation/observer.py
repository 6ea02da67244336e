"""Counts the images and answers of a worker, if its server has a folder for that; it never costs an answer."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from handlers.errors import RequestError
from handlers.observation import counters
from handlers.observation.counters import Counters
from handlers.observation.recent import Recent, Row, or_nan
from handlers.observation.slot import VARIABLE, Slot
from handlers.requests.labels import Labels

UNKNOWN = (float("nan"),) * 3


class Outcome(NamedTuple):
    """Status and answers of one request, and the bytes of each image; a body without images has its error as answer."""

    code: int
    answers: Sequence[Labels | RequestError]
    sizes: Sequence[int]


class Observer:
    """The counters and the newest images of this process.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str, version: str, classes: Sequence[str], width: int = 0) -> None:
        slot = Slot.take(folder, name, version)
        try:
            self.counters = Counters(slot, name, version, classes)
            self.recent = Recent(slot, name, version, width)
        except OSError:
            slot.release()
            raise
        self._places = {label: place for place, label in enumerate(classes)}

    @classmethod
    def of_environment(cls, name: str, version: str, classes: Sequence[str], width: int = 0) -> Self | None:
        """Return an observer that writes to the server's folder, or None if there is no such folder."""
        folder = os.environ.get(VARIABLE)
        if not folder:
            return None
        try:
            return cls(Path(folder), name, version, classes, width)
        except OSError as error:
            logging.getLogger(__name__).warning("%s %s is served without metrics: %s", name, version, error)
            return None

    def batch(self, outcomes: Sequence[Outcome], seconds: Mapping[str, float]) -> None:
        """Count the requests of one batch, and the seconds of its stages."""
        now = time.time()
        add, observe = self.counters.add, self.counters.observe
        rows = []
        for outcome in outcomes:
            add("sightline_requests_total", place=_place(counters.CODES, str(outcome.code)))
            for answer in outcome.answers:
                if isinstance(answer, RequestError):
                    add("sightline_refused_images_total", place=_place(counters.REASONS, answer.kind))
                else:
                    rows.append(self._answered(answer, now))
            for size in outcome.sizes:
                observe("sightline_image_bytes", size)
        for stage, duration in seconds.items():
            observe("sightline_stage_seconds", duration, counters.STAGES.index(stage))
        observe("sightline_batch_requests", len(outcomes))
        observe("sightline_batch_images", sum(len(outcome.sizes) for outcome in outcomes))
        self.counters.write()
        self.recent.add(rows)

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
