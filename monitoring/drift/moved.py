"""The images that moved most: those that are unlike the validation images, and like the others of their sample.

This is the witness function of the maximum mean discrepancy (Gretton et al. 2012, JMLR 13): the discrepancy is the
difference of its means over both samples.
"""

import numpy as np

from handlers.observation.reference import Reference
from monitoring.drift import mmd
from monitoring.drift.mmd import Floats, Indices
from monitoring.drift.verdict import COLUMNS, Images

TAIL = 0.005  # of the validation images, below and above the usual values


def witness(reference: Reference, sample: Images) -> Floats:
    """Return, of each image (N,), the mean kernel to the sample less that to the validation images."""
    validation = Images.of(reference).embeddings
    kernel = mmd.kernel(np.concatenate([validation, sample.embeddings]))[len(validation) :]
    return np.asarray(kernel[:, len(validation) :].mean(axis=1) - kernel[:, : len(validation)].mean(axis=1))


def order(reference: Reference, sample: Images, count: int) -> Indices:
    """Return the places of the images that moved most, the first one first."""
    return np.argsort(-witness(reference, sample), kind="stable")[:count]


def unusual(reference: Reference, sample: Images) -> list[list[str]]:
    """Return, of each image, the statistics and the confidence that hardly any validation image has."""
    validation = Images.of(reference)
    usual = np.column_stack([validation.statistics, validation.confidences])
    values = np.column_stack([sample.statistics, sample.confidences])
    low, high = np.quantile(usual, [TAIL, 1 - TAIL], axis=0)
    high[COLUMNS.index("confidence")] = 1  # a high one is good
    return [
        [
            f"{name} {value:.3g} (validation {low[column]:.3g} to {high[column]:.3g})"
            for column, (name, value) in enumerate(zip(COLUMNS, row, strict=False))
            if not low[column] <= value <= high[column]
        ]
        for row in values
    ]
