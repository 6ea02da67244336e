"""Scores against values worked out by hand, against scikit-learn and torchmetrics, and intervals against simulation."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, top_k_accuracy_score

from training import scores
from training.data.records import DatasetError


def answers(images: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (N, K) and labels (N,) of a classifier that is exactly as sure as it is right."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(classes, 0.3), size=images)
    labels = (probabilities.cumsum(axis=1) > generator.random((images, 1))).argmax(axis=1)
    return probabilities.astype(np.float32), labels


def test_wilson_by_hand() -> None:
    estimate = scores.proportion(9, 10)
    assert estimate is not None
    z, share, trials = 1.959963984540054, 0.9, 10
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * (share * (1 - share) / trials + z**2 / (4 * trials**2)) ** 0.5
    assert estimate.value == 0.9
    assert estimate.low == pytest.approx(centre - half)
    assert estimate.high == pytest.approx(centre + half)


def test_wilson_of_no_mistakes_and_no_images() -> None:
    estimate = scores.proportion(1823, 1823)
    assert estimate is not None
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(1823 / (1823 + 1.959963984540054**2))
    assert scores.proportion(0, 0) is None


def test_scores_by_hand() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    labels = np.array([0, 1, 1, 0])
    result = scores.score(probabilities, labels, ("a", "b", "c"))
    assert (result["images"], result["mistakes"]) == (4, 2)
    assert result["top_1"]["value"] == 0.5
    assert result["top_5"]["value"] == 1.0
    # a: one of two found, one of two answers right; b: one of two, one of one; c: answered once, never true.
    assert result["macro_f1"]["value"] == pytest.approx((0.5 + 2 / 3 + 0) / 3)
    assert result["per_class"]["a"]["precision"]["value"] == 0.5
    assert result["per_class"]["b"]["precision"]["value"] == 1.0
    assert result["per_class"]["b"]["recall"]["value"] == 0.5
    assert result["per_class"]["c"]["images"] == 0
    assert result["per_class"]["c"]["recall"] is None
    # So few images form one bin: 0.625 sure on average and right in half of the cases, which chance alone explains.
    assert result["calibration_error"]["value"] == 0


def test_a_class_that_never_occurs_has_no_part_in_macro_f1() -> None:
    macro, by_class = scores.f1_scores(np.array([[2, 0, 0], [0, 2, 0], [0, 0, 0]]))
    assert macro == 1.0 and by_class.tolist() == [1.0, 1.0, 0.0]


def test_a_bin_is_open_below_and_closed_above() -> None:
    edges = np.array([0.0, 1 / 15, 1 / 15 + 1e-6, 0.2, 1.0])
    assert scores.equal_widths(edges).tolist() == [0, 0, 1, 2, 14]


def test_bins_of_equal_mass_hold_as_many_images_and_equal_confidences_together() -> None:
    confidences = np.random.default_rng(0).permutation(np.linspace(0.2, 1, 300))
    bin_of = scores.equal_masses(confidences)
    assert np.bincount(bin_of).tolist() == [20] * 15
    assert (np.diff(bin_of[np.argsort(confidences)]) >= 0).all()
    assert np.bincount(scores.equal_masses(confidences[:49])).tolist() == [13, 12, 12, 12]
    saturated = np.concatenate([np.ones(200), np.linspace(0.2, 0.9, 100)])
    assert len(set(scores.equal_masses(saturated)[:200].tolist())) == 1
    assert scores.equal_masses(np.array([0.5])).tolist() == [0]


def test_calibration_error_by_hand() -> None:
    # Two bins of ten: 0.6 sure and 2 right, 0.9 sure and all right.
    confidences = np.repeat([0.6, 0.9], 10)
    right = np.array([True] * 2 + [False] * 8 + [True] * 10)
    first = (0.6 - 0.2) ** 2 - 0.2 * 0.8 / 9  # the chance of two in ten
    second = (0.9 - 1.0) ** 2
    assert scores.calibration_error(confidences, right) == pytest.approx(((first + second) / 2) ** 0.5)
    # The order of the images does not matter.
    order = np.random.default_rng(0).permutation(20)
    shuffled = scores.calibration_error(confidences[order], right[order])
    assert shuffled == pytest.approx(((first + second) / 2) ** 0.5)


def test_a_calibrated_classifier_has_no_calibration_error() -> None:
    """Chance alone would give a mean squared gap of 15 bins' variance: 15 times that of all images."""
    generator = np.random.default_rng(0)
    for images in (300, 1000):
        squares, with_chance = [], []
        for _ in range(400):
            confidences = generator.uniform(0.3, 1, images)
            right = generator.random(images) < confidences
            square, plain = scores._squares(*scores._cells(confidences, right))
            squares.append(square[0])
            with_chance.append(plain[0])
        chance = np.mean(with_chance)
        assert chance == pytest.approx(15 * np.mean(confidences * (1 - confidences)) / images, rel=0.15)
        assert abs(np.mean(squares)) < 0.05 * chance
    confidences = generator.uniform(0.3, 1, 200_000)
    assert scores.calibration_error(confidences, generator.random(200_000) < confidences) < 0.005
    # One that is always 0.1 too sure has that error.
    assert scores.calibration_error(confidences, generator.random(200_000) < confidences - 0.1) == pytest.approx(
        0.1, abs=0.005
    )


def test_probabilities_without_their_temperatures_are_those_of_the_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (50, 6))
    temperatures = np.repeat([0.4, 1.0, 3.0], [10, 20, 20])

    def softmax(values: np.ndarray) -> np.ndarray:
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
        return shares

    scaled = softmax(logits / temperatures[:, None])
    assert scores.unscaled(scaled, temperatures) == pytest.approx(softmax(logits))
    sure = np.array([[1.0, 0.0]], dtype=np.float32)
    assert scores.unscaled(sure, np.array([1.7])).tolist() == [[1.0, 0.0]]


def test_agrees_with_the_libraries() -> None:
    probabilities, labels = answers(400, 12)
    result = scores.score(probabilities, labels, [str(k) for k in range(12)])
    predicted = probabilities.argmax(axis=1)
    everything = np.arange(12)
    assert result["top_1"]["value"] == pytest.approx((predicted == labels).mean())
    assert result["top_5"]["value"] == pytest.approx(
        top_k_accuracy_score(labels, probabilities, k=5, labels=everything)
    )
    assert result["macro_f1"]["value"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    rows = list(result["per_class"].values())
    for name, function in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        expected = function(labels, predicted, labels=everything, average=None)
        assert [row[name]["value"] for row in rows] == pytest.approx(list(expected))


def test_ties_go_to_the_first_class() -> None:
    probabilities = np.array([[0.5, 0.5], [0.5, 0.5]])
    assert scores.ranks(probabilities, np.array([0, 1])).tolist() == [0, 1]


def test_every_interval_holds_its_value_and_json_takes_it() -> None:
    probabilities, labels = answers(300, 5)
    result = json.loads(json.dumps(scores.score(probabilities, labels, list("abcde"))))
    for name in ("top_1", "top_5", "macro_f1", "calibration_error"):
        estimate = result[name]
        assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
    assert result["top_1"]["high"] - result["top_1"]["low"] > 0.01
    assert result["macro_f1"]["high"] - result["macro_f1"]["low"] > 0.01


def test_same_seed_same_intervals() -> None:
    probabilities, labels = answers(200, 4)
    first, again, other = (scores.score(probabilities, labels, list("abcd"), seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first["macro_f1"]["low"] != other["macro_f1"]["low"]


def test_bootstrap_of_the_matrix_is_that_of_the_images() -> None:
    """Drawing a row of the confusion matrix must spread as drawing its images does."""
    probabilities, labels = answers(150, 4, seed=5)
    predicted = probabilities.argmax(axis=1)
    counts = np.zeros((4, 4), dtype=np.int64)
    np.add.at(counts, (labels, predicted), 1)
    draws, _ = scores.bootstrap_f1(counts, seed=0, resamples=2000)
    generator = np.random.default_rng(1)
    groups = [np.flatnonzero(labels == k) for k in range(4)]
    slow = []
    for _ in range(500):
        rows = np.concatenate([generator.choice(group, len(group)) for group in groups])
        slow.append(f1_score(labels[rows], predicted[rows], average="macro", labels=range(4)))
    assert draws.mean() == pytest.approx(np.mean(slow), abs=0.01)
    assert draws.std() == pytest.approx(np.std(slow), rel=0.15)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_calibration_interval_holds_the_true_error(power: float) -> None:
    """Of a calibrated and of an overconfident classifier, whose true error a large sample tells."""

    def sharpened(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        probabilities, labels = answers(images, 10, seed)
        probabilities = probabilities**power
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return probabilities, labels

    probabilities, labels = sharpened(100_000, 99)
    right = probabilities.argmax(axis=1) == labels
    true = scores.calibration_error(probabilities.max(axis=1), right)
    estimates = [scores.calibration_estimate(*sharpened(300, seed), seed=seed, resamples=200) for seed in range(100)]
    assert sum(each.low <= true <= each.high for each in estimates) >= 90
    if power > 1:
        assert sum(each.low > 0 for each in estimates) >= 90
        assert np.median([each.high - each.low for each in estimates]) < 0.15


def test_parts_of_a_class_name() -> None:
    classes = ("0L", "0R", "1L", "1R")
    probabilities = np.array([[0.3, 0.1, 0.4, 0.2], [0.1, 0.6, 0.1, 0.2]])
    labels = np.array([1, 1])
    merged, own, names = scores.part(probabilities, labels, classes, r"^(\d)")
    assert names == ("0", "1")
    assert merged == pytest.approx(np.array([[0.4, 0.6], [0.7, 0.3]]))
    assert own.tolist() == [0, 0]
    result = scores.parts(probabilities, labels, classes, {"count": r"^(\d)", "hand": "(L|R)$"})
    assert result["count"]["top_1"]["value"] == 0.5
    assert result["hand"]["top_1"]["value"] == 0.5
    assert list(result["hand"]["per_class"]) == ["L", "R"]


def test_a_pattern_that_finds_nothing_is_named() -> None:
    with pytest.raises(DatasetError, match=r"label_parts.*'B'"):
        scores.part(np.ones((1, 2)), np.zeros(1, dtype=int), ("0L", "B"), r"^(\d)")


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(ValueError, match="0 labels"):
        scores.score(np.zeros((0, 2)), np.zeros(0, dtype=int), ("a", "b"))


def test_no_interval_of_few_images_has_no_width() -> None:
    for answers in ([0, 1, 2, 0, 1], [0, 1, 2, 3, 4]):
        labels = np.arange(5)
        probabilities = np.eye(5)[answers]
        f1 = scores.score(probabilities, labels, [*"abcde"])["macro_f1"]
        assert f1["high"] - f1["low"] > 0.2 and f1["low"] <= f1["value"] <= f1["high"]
    labels = np.repeat(np.arange(10), 200)
    f1 = scores.score(np.eye(10)[labels], labels, [*"abcdefghij"])["macro_f1"]
    assert f1["high"] == 1 and 0.995 < f1["low"] < 1


def test_paired_loss_by_hand() -> None:
    # Bonett and Price: (1 + 1) / 102 - (0 + 1) / 102 plus and minus 1.96 * sqrt((3 / 102 - (1 / 102) ** 2) / 102)
    loss = scores.paired_loss(1, 0, 100)
    middle, half = 1 / 102, 1.959964 * ((3 / 102 - (1 / 102) ** 2) / 102) ** 0.5
    assert (loss.value, loss.low, loss.high) == pytest.approx((0.01, middle - half, middle + half), abs=1e-6)
    assert scores.paired_loss(0, 0, 4).high == pytest.approx(0.462, abs=1e-3)
    few, many = scores.paired_loss(3, 5, 50), scores.paired_loss(5, 3, 50)
    assert (few.low, few.high) == pytest.approx((-many.high, -many.low))


def test_the_interval_of_a_paired_loss_holds_the_true_loss() -> None:
    generator = np.random.default_rng(0)
    for images, lost, gained in ((200, 0.01, 0.01), (1000, 0.02, 0.01), (1000, 0.001, 0.001)):
        draws = generator.multinomial(images, [lost, gained, 1 - lost - gained], size=2000)
        estimates = [scores.paired_loss(int(a), int(b), images) for a, b, _ in draws]
        assert np.mean([each.low <= lost - gained <= each.high for each in estimates]) >= 0.945
