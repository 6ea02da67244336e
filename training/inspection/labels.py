"""Labels that are probably wrong: confident learning (Northcutt, Jiang and Chuang 2021, arXiv:1911.00068).

The confident joint (section 3.1, equations 1 to 3) estimates how many labels are wrong. The images with the least
probable labels, as many as that, are the suspects (section 3.2: pruning by self-confidence; here over all classes at
once, since the estimate of a small class is one image more or less). This is our own code after the paper: `cleanlab`,
the package of its authors, is AGPL-3.0.
"""

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from training.data.progress import progress
from training.transfer import head

FOLDS = 10
DEALS = 2  # of the images to folds: the mean of two heads is less noisy than one; many images need only one
# Chosen on 25 classes of Places365 with 2 % of the labels swapped; weaker than this, a head learns wrong labels.
STRENGTH = 0.1
MIN_IMAGES = 2  # images of a class: without a second one, nothing outside its fold shows the class
AT_ONCE = 16_384  # rows of probabilities

Labels = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Suspects:
    """Rows whose labels are probably wrong, the most suspicious first: probability of the label, and a better class."""

    rows: Labels
    confidences: Values
    suggested: Labels


def suspects(probabilities: Values, labels: Labels) -> Suspects:
    """Return the suspects among images with these labels (N,) and out-of-fold probabilities (N, K)."""
    own = np.arange(len(labels)), labels
    confidences = probabilities[own]
    others = probabilities.copy()
    others[own] = -1
    rows = np.flatnonzero(others.max(axis=1) > confidences)
    sizes = np.bincount(labels, minlength=probabilities.shape[1])
    rows = rows[sizes[labels[rows]] >= MIN_IMAGES]
    rows = rows[np.argsort(confidences[rows], kind="stable")][: _wrong_labels(probabilities, labels)]
    return Suspects(rows, confidences[rows], others[rows].argmax(axis=1))


def _wrong_labels(probabilities: Values, labels: Labels) -> int:
    """Return how many labels are wrong, by the calibrated confident joint.

    An image counts for the most probable of the classes that are as probable for it as, on average, for the images that
    are labelled with them; or for none.
    """
    classes = probabilities.shape[1]
    sizes = np.bincount(labels, minlength=classes)
    means = np.bincount(labels, probabilities[np.arange(len(labels)), labels], classes) / np.maximum(sizes, 1)
    counts, errors = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for start in range(0, len(labels), AT_ONCE):
        part, own = probabilities[start : start + AT_ONCE], labels[start : start + AT_ONCE]
        confident = np.where((part >= means) & (sizes >= MIN_IMAGES), part, -1)
        is_counted = (confident.max(axis=1) >= 0) & (sizes[own] >= MIN_IMAGES)
        is_error = is_counted & (confident.argmax(axis=1) != own)
        counts += np.bincount(own[is_counted], minlength=classes)
        errors += np.bincount(own[is_error], minlength=classes)
    return int(np.ceil((sizes * errors / np.maximum(counts, 1)).sum()))


def out_of_fold(features: Values, labels: Labels, groups: Labels, classes: int, console: Console) -> Values:
    """Return the probabilities (N, K) of each image, by linear heads that were fitted without its fold.

    Args:
        features: (N, D).
        labels: (N,), from 0 to K - 1.
        groups: (N,), a number for the images of a group, which are kept in one fold if it is large enough.
        classes: K.
    """
    logs = torch.zeros(len(labels), classes)
    deals = DEALS if len(labels) <= head.SEARCHED else 1
    with progress(console, "linear heads", FOLDS * deals) as advance:
        for deal in range(deals):
            parts = folds(labels, groups, deal)
            for fold in range(FOLDS):
                inside, outside = np.flatnonzero(parts == fold), _subset(np.flatnonzero(parts != fold))
                if len(inside) and len(outside):
                    fitted = head.fit(features[outside], labels[outside], classes, None, strengths=(STRENGTH,))
                    logs[inside] += fitted.logits(features[inside]).log_softmax(dim=1)
                advance(1)
    probabilities: Values = (logs / deals).softmax(dim=1).numpy()
    return probabilities


def folds(labels: Labels, groups: Labels, seed: int) -> Labels:
    """Return the fold, 0 to `FOLDS` - 1, of each image: a tenth of each class, and groups whole if they fit."""
    _, groups = np.unique(groups, return_inverse=True)
    rank = np.random.default_rng(seed).permutation(groups.max(initial=0) + 1)[groups]
    parts = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(rank[members], kind="stable")]
        _, first, size = np.unique(rank[members], return_index=True, return_counts=True)
        place = np.arange(len(members))
        is_whole = np.repeat(size <= len(members) / FOLDS, size)
        place[is_whole] = np.repeat(first, size)[is_whole]
        # Each class begins with another fold, or small classes would all leave the last folds empty.
        parts[members] = (place * FOLDS // len(members) + label) % FOLDS
    return parts


def _subset(rows: Labels) -> Labels:
    """Return at most as many rows as a head is searched with: of 100,000 images it learns little more."""
    if len(rows) <= head.SEARCHED:
        return rows
    return np.sort(np.random.default_rng(0).permutation(rows)[: head.SEARCHED])
