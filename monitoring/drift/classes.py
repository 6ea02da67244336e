"""Is one class more frequent than in validation? A test for one of many classes, which hardly moves the embeddings.

Counts of answers say little: of 96 classes, 200 images hold two of each, and the network is often wrong. So each image
counts for all classes, by how near its embedding is to the mean embedding of the images with each answer (linear
discriminant analysis). Means and covariance are those of the pooled sample, so that the permutation test is exact.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from monitoring.drift.mmd import Floats, Indices

# Chosen on label shift of Places365, by benchmarks/drift.py --choose.
RIDGE = 1.0  # of the mean variance within answers, added to each direction's
TEMPERATURE = 4.0  # of the shares: the means of few images are uncertain
FREQUENT = 0.1  # of the images, the share of one class for which the test is most sensitive


def excesses(embeddings: Floats, answers: Indices, members: npt.NDArray[np.bool_]) -> Floats:
    """Return the largest excess of a class in the members (P, N) of each row, in standard deviations of one image.

    The excess is the mean, over the members, of the logarithm of a likelihood ratio: that of a mixture with `FREQUENT`
    of the class, against the pooled sample. `embeddings` (N, d) and `answers` (N,) are those of the pooled images.
    """
    shares = _shares(np.asarray(embeddings, np.float64), answers)
    evidence = np.log1p(FREQUENT * (shares / shares.mean(axis=0) - 1)).astype(np.float32)
    evidence = (evidence - evidence.mean(axis=0)) / (evidence.std(axis=0) + 1e-6)
    means = (members.astype(np.float32) @ evidence) / members.sum(axis=1, dtype=np.float32)[:, None]
    return np.asarray(means.max(axis=1), np.float64)


def _shares(embeddings: Floats, answers: Indices) -> npt.NDArray[np.float64]:
    """Return how much each image belongs to each of the answers that occur, (N, K), 1 in sum."""
    places, counts = np.unique(answers, return_inverse=True, return_counts=True)[1:]
    means = np.zeros((len(counts), embeddings.shape[1]))
    np.add.at(means, places, embeddings)
    means /= counts[:, None]
    residual = embeddings - means[places]
    within = residual.T @ residual / len(residual)
    within += (RIDGE * np.trace(within) / len(within) + 1e-9) * np.eye(len(within))
    directions = np.linalg.solve(within, means.T)
    return np.asarray(softmax((embeddings @ directions - (means.T * directions).sum(axis=0) / 2) / TEMPERATURE, axis=1))
