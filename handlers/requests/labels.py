"""The answer for one image: its labels, and how familiar it is."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from handlers.observation.statistics import Statistics

LEAST_FAMILIAR = 0.05  # of the validation images, 95 % are familiar


class Measured(NamedTuple):
    """The measurements of an image; `embedding` is in the directions of a reference for drift, empty without one."""

    statistics: Statistics | None = None
    embedding: Sequence[float] = ()


NOTHING = Measured()


class Labels(dict[str, float]):
    """Labels with their probabilities, best first.

    `familiarity` is the share of validation images that are at least as far from the training images, from 0 to 1; None
    from an artifact without a bank (see `handlers.network.familiarity`). `measure` returns the measurements, from a
    classifier that observes its images. `pixels` is the size of the encoded image, 0 if unknown.
    """

    __slots__ = ("_measure", "_measured", "familiarity", "pixels")

    def __init__(
        self,
        labels: Mapping[str, float] | Iterable[tuple[str, float]] = (),
        familiarity: float | None = None,
        measure: Callable[[], Measured] | None = None,
    ) -> None:
        super().__init__(labels)
        self.familiarity, self._measure, self._measured = familiarity, measure, NOTHING
        self.pixels = 0

    def measure(self) -> Measured:
        """Return the measurements. Until the first call this holds the image."""
        if self._measure is not None:
            self._measured, self._measure = self._measure(), None
        return self._measured

    @property
    def statistics(self) -> Statistics | None:
        """Return the statistics of the image, None from a classifier that does not observe."""
        return self.measure().statistics

    @property
    def embedding(self) -> Sequence[float]:
        """Return the embedding of the image."""
        return self.measure().embedding


def familiarity_header(values: Sequence[float | None]) -> str:
    """Return the header of a response with these images: `0.372;familiar, 0.001;unfamiliar, none`."""
    return ", ".join("none" if value is None else f"{shown(value):.3f};{word_of(value)}" for value in values)


def word_of(value: float) -> str:
    """Return "familiar" or "unfamiliar"."""
    return "familiar" if value >= LEAST_FAMILIAR else "unfamiliar"


def shown(value: float) -> float:
    """Return a familiarity with three decimals, rounded down: it stays on its side of `LEAST_FAMILIAR`."""
    return math.floor(1000 * value + 1e-9) / 1000
