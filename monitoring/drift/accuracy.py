"""Accuracy without labels, from the confidences of a window and of validation images.

Two estimates, each exact on the validation images. The average thresholded confidence (ATC, Garg et al. 2022,
arXiv:2201.04234) is the share of images above the confidence that as many validation images exceed as are right. The
difference of confidences (Guillory et al. 2021, arXiv:2107.03315) adds the change of the mean confidence to the
accuracy on validation. Under corruptions the first is too low where few validation images are wrong, the second too
high where the network is confidently wrong. Their mean is the estimate, and both lie in the interval.
"""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from monitoring.drift.mmd import Floats

NORMAL_95 = 1.96  # standard errors


@dataclasses.dataclass(frozen=True, slots=True)
class Accuracy:
    """The estimated share of right answers in a window, with its 95 % interval."""

    value: float
    low: float
    high: float


def estimate(reference: Floats, right: npt.NDArray[np.bool_], window: Floats) -> Accuracy:
    """Return the accuracy in a window of confidences (M,) from those of validation images (N,), `right` or wrong."""
    threshold = np.quantile(reference, 1 - right.mean(), method="higher") if not right.all() else -math.inf
    estimates: list[float] = []
    errors: list[float] = []
    for score, score_window in ((reference >= threshold, window >= threshold), (reference, window)):
        residual: npt.NDArray[np.float64] = right - score.astype(np.float64)
        estimates.append(float(score_window.mean() + residual.mean()))
        # Of the window's images the residuals are as those of validation; one more of each kind than there were.
        variance = float((residual**2).sum() + 1) / (len(residual) + 2)
        errors.append(NORMAL_95 * math.sqrt(variance * (1 / len(reference) + 1 / len(window))))
    low, high = min(estimates) - max(errors), max(estimates) + max(errors)
    value, low, high = (min(max(number, 0.0), 1.0) for number in (sum(estimates) / 2, low, high))
    return Accuracy(value, low, high)
