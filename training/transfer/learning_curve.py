"""How the accuracy of a linear head grows with its training images, and what twice as many would bring."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from training.transfer import head

PARTS = (0.25, 0.5, 1.0)  # of the training images
REPEATS = 3  # draws of a part
RESAMPLES = 500
LEAST_IMAGES, LEAST_VALIDATION = 8, 50  # a class, and in all

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class LearningCurve:
    """Validation accuracy by images a class, and the one expected of `twice` as many images, with its 95 % band."""

    images: tuple[float, ...]
    twice: float
    accuracy: tuple[float, ...]
    expected: float
    low: float
    high: float

    def line(self) -> str:
        """Return the curve for people."""
        pairs = zip(self.images, self.accuracy, strict=True)
        points = ", ".join(f"{accuracy:.1%} with {images:.0f}" for images, accuracy in pairs)
        return (
            f"linear head, validation top-1 by images a class: {points}; with {self.twice:.0f} expect "
            f"{self.expected:.1%} ({self.low:.1%} to {self.high:.1%})"
        )


def learning_curve(
    features: Features,
    labels: Labels,
    classes: int,
    validation: tuple[Features, Labels],
    *,
    strength: float,
    balanced: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> LearningCurve | None:
    """Return the curve of heads that were fitted on parts of the training images; None for too few images.

    `say` takes lines on the progress of a fit that takes long.

    The error is taken to fall as a power of the number of images (Hestness et al. 2017, arXiv:1712.00409). The band
    comes from resampled validation images.
    """
    if len(labels) / classes < LEAST_IMAGES or len(validation[1]) < LEAST_VALIDATION:
        return None
    random = np.random.default_rng(0)
    total = min(len(labels), head.SEARCHED)
    right = []
    options: dict[str, Any] = {"balanced": balanced, "strengths": (strength,), "say": say}
    for part in PARTS:
        draws = REPEATS if part < 1 else 1
        answers = []
        for _ in range(draws):
            rows = random.permutation(len(labels))[: int(part * total)]
            fitted = head.fit(features[rows], labels[rows], classes, None, **options)
            answers.append(fitted.logits(validation[0]).argmax(dim=1).numpy() == validation[1])
        right.append(np.mean(answers, axis=0))
    correct = np.stack(right)
    images = np.array([part * total / classes for part in PARTS])
    draws_of_images = random.integers(0, correct.shape[1], (RESAMPLES, correct.shape[1]))
    twice = 2 * len(labels) / classes
    expected = _extrapolated(images, correct.mean(axis=1), twice)
    resampled = [_extrapolated(images, correct[:, rows].mean(axis=1), twice) for rows in draws_of_images]
    low, high = np.quantile(resampled, [0.025, 0.975])
    accuracy = tuple(float(value) for value in correct.mean(axis=1))
    return LearningCurve(tuple(images.tolist()), twice, accuracy, expected, float(low), float(high))


def _extrapolated(images: npt.NDArray[np.float64], accuracy: npt.NDArray[np.float64], more: float) -> float:
    """Return the accuracy with `more` images a class, by a power law of the error."""
    errors = np.log(np.maximum(1 - accuracy, 1e-3))
    slope, _ = np.polyfit(np.log(images), errors, 1)
    return float(1 - np.exp(errors[-1] + min(slope, 0.0) * np.log(more / images[-1])))
