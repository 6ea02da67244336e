"""Kernel maximum mean discrepancy (MMD) of two samples, with a permutation test (Gretton et al. 2012, JMLR 13).

The null hypothesis is tested on the pooled sample: under it reference and window are exchangeable, so the level is
exact for any number of images. A null of windows drawn from the reference would overlap the reference, lie too near to
it, and reject 37 to 100 % of unchanged traffic.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

PERMUTATIONS = 999  # the smallest p-value is 1 / (PERMUTATIONS + 1)

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Test:
    """A statistic, its threshold at the level of the test, and its p-value."""

    value: float
    threshold: float
    p: float

    @property
    def exceeded(self) -> bool:
        """Return whether the null hypothesis is rejected."""
        return self.value > self.threshold

    @classmethod
    def of(cls, values: Floats, level: float) -> "Test":
        """Return the test of `values`: the observed statistic, then those of the permutations."""
        observed, null = float(values[0]), np.sort(values[1:])[::-1]
        # Equal values of permutations and observation differ in their last bits.
        slack = 1e-6 * max(abs(float(null[0])), abs(observed), 1e-12)
        rank = int(level * len(values))  # as many permutations may be at least as large
        threshold = float(null[rank - 1]) + slack if rank else float("inf")
        return cls(observed, threshold, float((1 + (null >= observed - slack).sum()) / len(values)))


def kernel(rows: Floats) -> npt.NDArray[np.float32]:
    """Return the Gaussian kernel (N, N) of rows (N, D), its bandwidth the median distance of two rows."""
    rows = np.asarray(rows, np.float64)
    squares = np.einsum("ij,ij->i", rows, rows)
    distances = (squares[:, None] + squares[None, :] - 2 * rows @ rows.T).clip(min=0)
    median = np.median(distances[np.triu_indices(len(rows), 1)])
    return np.asarray(np.exp(-distances / (2 * median or 1.0)), np.float32)


def memberships(window: npt.NDArray[np.bool_], groups: Indices, random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return (PERMUTATIONS + 1, N): the observed members of the window, then permutations of them within groups."""
    order = np.argsort(groups, kind="stable")
    # Random orders that keep the groups in their places: the draws of a group are between its number and the next.
    places = np.unique(groups, return_inverse=True)[1][order].astype(np.float32)
    draws = places + random.random((PERMUTATIONS, len(window)), np.float32)
    permuted = np.empty((PERMUTATIONS + 1, len(window)), np.bool_)
    permuted[0] = window
    permuted[1:, order] = window[order][np.argsort(draws, axis=1)]
    return permuted


def discrepancies(kernel: Floats, members: npt.NDArray[np.bool_], groups: Indices) -> Floats:
    """Return MMD^2 of each row of `members`, between samples in which each group has the same share.

    A share is the harmonic mean of those of both samples: a group of one sample only does not count, and one of few
    images in either counts little. The number of members of a group is the same in each row.
    """
    inside = np.bincount(groups, members[0])
    outside = np.bincount(groups) - inside
    shares = np.divide(inside * outside, inside + outside, out=np.zeros_like(inside), where=inside * outside > 0)
    shares /= max(shares.sum(), 1e-12)
    inner, outer = ((shares / count.clip(1))[groups].astype(np.float32) for count in (inside, outside))
    signed = np.where(members, inner, -outer)
    # The mean is of no effect on the statistic, but on its rounding.
    return np.asarray(np.einsum("ij,ij->i", signed @ (kernel - kernel.mean()), signed), np.float64)
