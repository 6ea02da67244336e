"""The answer for one image: its labels, and how familiar it is."""

import math
from collections.abc import Iterable, Mapping, Sequence

from handlers.observation.statistics import Statistics

LEAST_FAMILIAR = 0.05  # of the validation images, 95 % are familiar


class Labels(dict[str, float]):
    """Labels with their probabilities, best first.

    `familiarity` is the share of validation images that are at least as far from the training images, from 0 to 1; None
    from an artifact without a bank (see `handlers.network.familiarity`). `statistics` and `embedding` are those that a
    classifier measures if it observes its images, and `pixels` is the size of the encoded image, 0 if unknown.
    """

    __slots__ = ("embedding", "familiarity", "pixels", "statistics")

    def __init__(
        self,
        labels: Mapping[str, float] | Iterable[tuple[str, float]] = (),
        familiarity: float | None = None,
        statistics: Statistics | None = None,
        embedding: Sequence[float] = (),
    ) -> None:
        super().__init__(labels)
        self.familiarity, self.statistics, self.embedding = familiarity, statistics, embedding
        self.pixels = 0


def familiarity_header(values: Sequence[float | None]) -> str:
    """Return the header of a response with these images: `0.372;familiar, 0.001;unfamiliar, none`."""
    return ", ".join("none" if value is None else f"{shown(value):.3f};{word_of(value)}" for value in values)


def word_of(value: float) -> str:
    """Return "familiar" or "unfamiliar"."""
    return "familiar" if value >= LEAST_FAMILIAR else "unfamiliar"


def shown(value: float) -> float:
    """Return a familiarity with three decimals, rounded down: it stays on its side of `LEAST_FAMILIAR`."""
    return math.floor(1000 * value + 1e-9) / 1000
