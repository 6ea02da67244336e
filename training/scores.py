"""How good a classifier is, with the uncertainty that a finite test set leaves.

Proportions (top-k, precision, recall, a bin's accuracy) carry Wilson's interval (Wilson 1927, "Probable inference, the
law of succession, and statistical inference", as `scipy.stats.binomtest` has it). Macro-F1, F1 of a class and the
calibration error are no proportions: they carry the interval of a bootstrap over test images, stratified by true class
(Efron and Tibshirani 1993, "An introduction to the bootstrap", chapters 13 and 16).
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm
from sklearn.metrics import confusion_matrix

from training.data.records import DatasetError

Floats = npt.NDArray[Any]
Integers = npt.NDArray[Any]

BINS = 15  # of the calibration error and of the reliability diagram, as in Guo et al. 2017
LEAST_IN_BIN = 10  # images
LEVEL = 0.95
RESAMPLES = 1000
DRAWS = 1 << 22  # random numbers held at once: keeps the bootstrap's memory flat


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def proportion(successes: int, trials: int) -> Estimate | None:
    """Return a share in [0, 1] with Wilson's interval, or None of no trials."""
    if trials == 0:
        return None
    interval = binomtest(int(successes), int(trials)).proportion_ci(LEVEL, method="wilson")
    return Estimate(int(successes) / int(trials), float(interval.low), float(interval.high))


def ranks(probabilities: Floats, labels: Integers) -> Integers:
    """Return for each image how many classes rank before the true one, as int64 (N,); of equal ones the first wins.

    `probabilities` are (N, K), `labels` int (N,) in [0, K).
    """
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    before = np.arange(probabilities.shape[1])[None, :] < labels[:, None]
    place: Integers = ((probabilities > own) | ((probabilities == own) & before)).sum(axis=1)
    return place


def f1_scores(counts: Integers) -> tuple[float, Floats]:
    """Return macro-F1 and F1 (K,) of a confusion matrix, rows true.

    Macro-F1 is the mean over the classes that occur, truly or as an answer: scikit-learn's and torchmetrics' rule.
    """
    hits, true, answered = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    scores = 2 * hits / np.maximum(true + answered, 1)
    return float(scores[(true + answered) > 0].mean()), scores


def paired_loss(lost: int, gained: int, images: int) -> Estimate:
    """Return the top-1 that a second network loses on the images of a first one, as a share, with its 95 % interval.

    `lost` images are answered right by the first only, `gained` by the second only. The interval is the adjusted Wald
    interval for paired proportions (Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of
    binomial proportions based on paired data", equation 10): without a difference in 4 images it reaches from -0.46 to
    0.46, in 1,000 from -0.003 to 0.003.
    """
    only_first, only_second = (lost + 1) / (images + 2), (gained + 1) / (images + 2)
    middle = only_first - only_second
    half = norm.ppf((1 + LEVEL) / 2) * math.sqrt((only_first + only_second - middle**2) / (images + 2))
    value = (lost - gained) / images
    low, high = float(middle - half), float(middle + half)
    return Estimate(value, max(-1.0, min(value, low)), min(1.0, max(value, high)))


def mcnemar(losses: int, gains: int) -> float:
    """Return the p of McNemar's exact test of two networks on the same images.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions": a binomial test of the
    images that only the first answers right, `losses`, against those that only the second does, `gains`.
    """
    return float(binomtest(losses, losses + gains).pvalue) if losses + gains else 1.0


def bootstrap_f1(
    counts: Integers, *, seed: int = 0, resamples: int = RESAMPLES, unseen: float = 0.0
) -> tuple[Floats, Floats]:
    """Return macro-F1 (R,) and F1 of each class (R, K) of `resamples` draws of the test images, stratified by class.

    Drawing a class's images with replacement and counting their answers is a multinomial draw from that class's row
    of the confusion matrix, so the cost is R times the matrix's filled cells, however many images there are. A
    class whose images all get one answer has no spread to draw from, and the interval of few images no width: `unseen`
    images in all, spread evenly over the cells of the classes that occur, smooth the distribution (Efron and
    Tibshirani 1993, section 16.5).
    """
    generator = np.random.default_rng(seed)
    classes = len(counts)
    hits, answered = np.zeros((resamples, classes)), np.zeros((resamples, classes))
    true = counts.sum(axis=1)
    rows, occurring = np.flatnonzero(true), (true + counts.sum(axis=0)) > 0
    smoothed = counts + unseen / (len(rows) * occurring.sum()) * occurring[None, :]
    for row in rows:
        columns = np.flatnonzero(smoothed[row])
        shares = smoothed[row, columns] / smoothed[row].sum()
        drawn = generator.multinomial(true[row], shares, size=resamples)
        answered[:, columns] += drawn
        hits[:, row] = drawn[:, columns == row].sum(axis=1)
    there = true + answered
    scores = 2 * hits / np.maximum(there, 1)
    return scores.sum(axis=1) / (there > 0).sum(axis=1), scores


def equal_widths(confidences: Floats) -> Integers:
    """Return each confidence's bin in [0, BINS): equal widths, each bin open below and closed above."""
    return np.clip(np.ceil(confidences.astype(np.float64) * BINS).astype(np.int64) - 1, 0, BINS - 1)


def equal_masses(confidences: Floats) -> Integers:
    """Return each confidence's bin in [0, BINS): equal numbers of images, at least `LEAST_IN_BIN`.

    Equal confidences share a bin; few images form fewer bins.
    """
    before = np.searchsorted(np.sort(confidences), confidences, side="left")
    count = min(BINS, max(1, len(confidences) // LEAST_IN_BIN))
    bin_of: Integers = before * count // max(1, len(confidences))
    return bin_of


def calibration_error(confidences: Floats, right: npt.NDArray[np.bool_]) -> float:
    """Return the calibration error in [0, 1]: the root of the mean squared gap between confidence and accuracy, by bin.

    The bins are of equal mass. From the square of a bin's gap, the part that chance adds to it is subtracted (Kumar,
    Liang and Ma 2019, "Verified uncertainty calibration", arXiv:1909.10155, section 5): for a calibrated classifier the
    mean square is 0 on average, however few images there are. A mean below 0 counts as 0. The mean absolute gap (Guo et
    al. 2017, "expected calibration error") is never larger than this root, and has no unbiased form. `confidences` (N,)
    are the highest probabilities, `right` (N,) whether that class was true.
    """
    return math.sqrt(max(0.0, float(_squares(*_cells(confidences, right))[0][0])))


def _cells(confidences: Floats, right: npt.NDArray[np.bool_]) -> tuple[Integers, Floats, npt.NDArray[np.bool_]]:
    """Return the bins, gaps and hits of images, each (1, N)."""
    gaps: Floats = right - confidences.astype(np.float64)
    return equal_masses(confidences)[None], gaps[None], right[None]


def _squares(cells: Integers, gaps: Floats, right: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the mean squared gap of each row (R,), without the part that chance adds, and with it.

    Args:
        cells: the bin of each image (R, N).
        gaps: 1 or 0, less the confidence (R, N).
        right: whether the answer was right (R, N).
    """
    numbered = (cells + BINS * np.arange(len(cells))[:, None]).ravel()

    def sums(values: npt.NDArray[Any] | None = None) -> Floats:
        weights = None if values is None else np.broadcast_to(values, cells.shape).ravel()
        totals: Floats = np.bincount(numbered, weights, minlength=len(cells) * BINS).reshape(len(cells), BINS)
        return totals

    images = sums()
    share = images / cells.shape[1]
    squared = (sums(gaps) / np.maximum(images, 1)) ** 2
    accuracy = sums(right) / np.maximum(images, 1)
    # One image has no spread to estimate chance from: its bin counts as without a gap.
    chance = np.where(images > 1, accuracy * (1 - accuracy) / np.maximum(images - 1, 1), squared)
    return (share * (squared - chance)).sum(axis=1), (share * squared).sum(axis=1)


def calibration_estimate(
    probabilities: Floats, labels: Integers, *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Return `calibration_error` of probabilities (N, K) with the interval of its bootstrap.

    Drawing images adds the noise of another sample to each gap. So the draws are centred on the squared error of the
    test set's own bins, chance included, which is the true one of the images that are drawn from (the basic interval of
    Efron and Tibshirani 1993). The interval reaches down to 0 where the value is no larger than 95 % of those of a
    perfectly calibrated classifier (Bröcker and Smith 2007, "Increasing the reliability of reliability diagrams"), and
    always holds the value.
    """
    confidences, right = probabilities.max(axis=1), ranks(probabilities, labels) == 0
    square, with_chance = (float(values[0]) for values in _squares(*_cells(confidences, right)))
    drawn, calibrated = bootstrap_calibration(confidences, right, labels, seed=seed, resamples=resamples)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - with_chance
    bottom = 0.0 if square <= np.quantile(calibrated, LEVEL) else square - float(high)
    squares = (min(square, bottom), max(square, square - float(low)))
    interval = (min(1.0, math.sqrt(max(0.0, value))) for value in squares)
    return Estimate(calibration_error(confidences, right), *interval)


def bootstrap_calibration(
    confidences: Floats, right: npt.NDArray[np.bool_], labels: Integers, *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[Floats, Floats]:
    """Return squared calibration errors (R,) of `resamples` draws, and those (R,) of a perfectly calibrated classifier.

    The first draws test images with replacement, stratified by class. The second keeps the images and draws whether
    each is right with its own confidence as the chance.
    """
    generator = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    sizes, starts = np.bincount(labels)[labels[order]], np.searchsorted(labels[order], labels[order])
    confidences, right = confidences.astype(np.float64)[order], right[order]
    gaps, bin_of = right - confidences, equal_masses(confidences)
    drawn_errors, calibrated_errors = [], []
    step = max(1, DRAWS // len(labels))
    for offset in range(0, resamples, step):
        shape = (min(step, resamples - offset), len(labels))
        drawn = starts + (generator.random(shape) * sizes).astype(np.int64)
        drawn_errors.append(_squares(bin_of[drawn], gaps[drawn], right[drawn])[0])
        chance = generator.random(shape) < confidences
        calibrated_errors.append(_squares(np.broadcast_to(bin_of, shape), chance - confidences, chance)[0])
    return np.concatenate(drawn_errors), np.concatenate(calibrated_errors)


def unscaled(probabilities: Floats, temperatures: Floats) -> Floats:
    """Return probabilities (N, K) as they would be without the temperatures (N,) that divided their logits."""
    best = probabilities.max(axis=1, keepdims=True).astype(np.float64)
    powers = (probabilities / best) ** temperatures[:, None]
    values: Floats = powers / powers.sum(axis=1, keepdims=True)
    return values


def percentile(value: float, draws: Floats) -> Estimate:
    """Return a value with the percentile interval of its bootstrap."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def score(probabilities: Floats, labels: Integers, classes: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """Return every score of the answers to a test set, as plain values for JSON.

    `probabilities` are (N, K) in [0, 1], `labels` int (N,) in [0, K), `classes` K names. Each score is `{value, low,
    high}`; `per_class` holds a class's `images`, `precision`, `recall` (the accuracy on its own images) and `f1`, where
    null is a score without images to compute it from.

    Raises:
        ValueError: there is no image, or the shapes do not agree.
    """
    if len(labels) == 0 or probabilities.shape != (len(labels), len(classes)):
        raise ValueError(f"{probabilities.shape} probabilities for {len(labels)} labels and {len(classes)} classes")
    place = ranks(probabilities, labels)
    answers, right = probabilities.argmax(axis=1), place == 0
    counts = confusion_matrix(labels, answers, labels=np.arange(len(classes)))
    draws, class_draws = bootstrap_f1(counts, seed=seed, unseen=1.0)
    return {
        "images": len(labels),
        "mistakes": int((~right).sum()),
        "top_1": plain(proportion(int(right.sum()), len(labels))),
        "top_5": plain(proportion(int((place < 5).sum()), len(labels))),
        "macro_f1": plain(percentile(f1_scores(counts)[0], draws)),
        "calibration_error": plain(calibration_estimate(probabilities, labels, seed=seed)),
        "per_class": per_class(counts, classes, class_draws),
    }


def per_class(counts: Integers, classes: Sequence[str], draws: Floats) -> dict[str, Any]:
    """Return images, precision, recall and F1 of each class of a confusion matrix (K, K), rows true."""
    hits, true, answered = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    f1 = f1_scores(counts)[1]
    return {
        name: {
            "images": int(true[k]),
            "precision": plain(proportion(hits[k], answered[k])),
            "recall": plain(proportion(hits[k], true[k])),
            "f1": plain(percentile(float(f1[k]), draws[:, k])) if true[k] + answered[k] else None,
        }
        for k, name in enumerate(classes)
    }


def plain(estimate: Estimate | None) -> dict[str, float] | None:
    """Return an estimate as JSON holds it."""
    return None if estimate is None else dataclasses.asdict(estimate)


def part(
    probabilities: Floats, labels: Integers, classes: Sequence[str], pattern: str
) -> tuple[Floats, Integers, tuple[str, ...]]:
    """Return probabilities, labels and classes of one part of the class names.

    `pattern` is a regular expression whose first group is the part: `^(\\d)` makes the counts 0 to 5 of the classes 0L
    to 5R. Probabilities of classes that share a part are added.

    Raises:
        DatasetError: a class name has no such part.
    """
    matches = [re.search(pattern, name) for name in classes]
    missing = [name for name, match in zip(classes, matches, strict=True) if match is None or not match.groups()]
    if missing:
        raise DatasetError(
            f"dataset.label_parts: {pattern!r} finds no group in the class {missing[0]!r}. "
            "Fix the pattern in the data set's configuration"
        )
    values = [match.group(1) for match in matches if match]
    names = tuple(sorted(set(values)))
    column = np.array([names.index(value) for value in values])
    merged = np.zeros((len(labels), len(names)), dtype=np.float64)
    for k in range(len(names)):
        merged[:, k] = probabilities[:, column == k].sum(axis=1)
    return merged, column[labels], names


def parts(
    probabilities: Floats, labels: Integers, classes: Sequence[str], patterns: Mapping[str, str]
) -> dict[str, Any]:
    """Return `score` of each named part of the class names; see `part`."""
    return {name: score(*part(probabilities, labels, classes, pattern)) for name, pattern in patterns.items()}
