"""Distances of histograms: population stability index (PSI) and Jensen-Shannon distance, with a permutation test.

They name the cause of a shift. Their usual limits (a PSI above 0.2) are for samples of thousands: of 100 images, ten
bins differ by more without any shift.
"""

import numpy as np
import numpy.typing as npt

from monitoring.drift.mmd import Test

BINS = 10

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]


def bins(reference: Floats, values: Floats) -> Indices:
    """Return the bin (N,) of each value among those that hold as many values of the reference; no number has the last.

    A statistic that is the same for many images has fewer bins.
    """
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, BINS + 1)[1:-1]))
    return np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="right"))


def psi(reference: Floats, window: Floats) -> Floats:
    """Return PSI of counts (..., B) of two samples, half an image added to each bin."""
    first, second = ((counts + 0.5) / (counts + 0.5).sum(axis=-1, keepdims=True) for counts in (reference, window))
    return np.asarray(((first - second) * np.log(first / second)).sum(axis=-1))


def jensen_shannon(reference: Floats, window: Floats) -> Floats:
    """Return the Jensen-Shannon distance, from 0 to 1, of counts (..., B) of two samples."""
    first, second = (counts / counts.sum(axis=-1, keepdims=True) for counts in (reference, window))
    middle = (first + second) / 2
    logs = [np.log2(part, out=np.zeros_like(part), where=part > 0) for part in (first, second, middle)]
    divergence = (first * logs[0] + second * logs[1]).sum(axis=-1) / 2 - (middle * logs[2]).sum(axis=-1)
    return np.asarray(np.sqrt(divergence.clip(min=0)))


def compare(values: Indices, members: npt.NDArray[np.bool_], level: float) -> tuple[Test, float]:
    """Return the test of the Jensen-Shannon distance, and PSI, of bins (N,) of pooled images.

    `members` (P + 1, N) are those of the window, then their permutations (see `mmd.memberships`).
    """
    present, places = np.unique(values, return_inverse=True)
    one_hot = np.eye(len(present), dtype=np.float32)[places]
    inside = members.astype(np.float32) @ one_hot
    outside = one_hot.sum(axis=0) - inside
    test = Test.of(jensen_shannon(outside.astype(np.float64), inside.astype(np.float64)), level)
    return test, float(psi(outside[0], inside[0]))
