"""Drift of drawn rows: the level of the tests, what they recognise, and the accuracy without labels."""

import dataclasses
import time
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from handlers.observation.recent import COLUMNS, Copy
from handlers.observation.reference import Reference
from handlers.observation.statistics import Statistics
from handlers.spec import REFERENCE
from monitoring.drift import accuracy, classes, histograms, label_shift, mmd
from monitoring.drift.live import SECONDS, SHARE, LiveDrift, reference_of
from monitoring.drift.mmd import Test as Drawn
from monitoring.drift.verdict import COLUMNS as NAMES
from monitoring.drift.verdict import LEVEL, Images, judge

WIDTH, CLASSES = 8, 4


def images(
    count: int, seed: int, *, shift: float = 0.0, shares: tuple[float, ...] = (0.25,) * 4, right: float = 0.9
) -> Images:
    """Return drawn images: each class has its place in the first directions, and `shift` moves all in the last one."""
    random = np.random.default_rng(seed)
    answers = random.choice(CLASSES, count, p=shares)
    embeddings = random.standard_normal((count, WIDTH))
    embeddings[np.arange(count), answers] += 4
    embeddings[:, -1] += shift
    statistics = random.normal((0.5, 0.5, 0.5 + shift / 10), 0.1, (count, 3))
    return Images(embeddings, statistics, random.uniform(2 * right - 1, 1, count), answers)


def drawn_reference(count: int = 300, seed: int = 1) -> Reference:
    """Return the reference of drawn images: each of them is right with its confidence as probability."""
    known = images(count, seed)
    right = np.random.default_rng(seed + 1).random(count) < known.confidences
    step = np.abs(known.embeddings).max(axis=0) / 127
    return Reference(
        directions=np.eye(WIDTH, dtype=np.int8),
        scale=np.ones(WIDTH, np.float32),
        offset=np.zeros(WIDTH, np.float32),
        embeddings=np.round(known.embeddings / step).astype(np.int8),
        step=step.astype(np.float32),
        statistics=known.statistics.astype(np.float32),
        confidences=known.confidences.astype(np.float32),
        answers=known.answers.astype(np.int32),
        labels=np.where(right, known.answers, (known.answers + 1) % CLASSES).astype(np.int32),
    )


@pytest.fixture(scope="module")
def reference() -> Reference:
    return drawn_reference()


def test_the_level_is_that_of_the_permutation_test() -> None:
    random, level, p_values = np.random.default_rng(0), 0.05, []
    for _ in range(600):
        rows = random.standard_normal((60, 3))
        groups = random.integers(0, 3, 60)
        members = mmd.memberships(np.arange(60) >= 40, groups, random)[:200]
        p_values.append(Drawn.of(mmd.discrepancies(mmd.kernel(rows), members, groups), level))
    share = np.mean([test.exceeded for test in p_values])
    assert 0.014 < share < 0.086  # 0.05, with four standard errors
    assert [test.exceeded for test in p_values] == [test.p <= level for test in p_values]
    assert 0.4 < np.mean([test.p for test in p_values]) < 0.6


def test_mmd_is_that_of_its_definition() -> None:
    random = np.random.default_rng(0)
    rows, inside = random.standard_normal((12, 2)), np.arange(12) >= 7
    groups = np.zeros(12, np.int64)
    distances = np.linalg.norm(rows[:, None] - rows[None, :], axis=2)
    median = np.median(distances[np.triu_indices(12, 1)])
    gauss = np.exp(-(distances**2) / (2 * median**2))
    first, second, cross = gauss[~inside][:, ~inside], gauss[inside][:, inside], gauss[inside][:, ~inside]
    expected = first.mean() + second.mean() - 2 * cross.mean()
    assert mmd.discrepancies(mmd.kernel(rows), inside[None], groups)[0] == pytest.approx(expected, abs=1e-6)


def test_mmd_at_equal_shares_is_that_of_weighted_images() -> None:
    random = np.random.default_rng(0)
    kernel = mmd.kernel(random.standard_normal((30, 2)))
    inside, groups = np.arange(30) % 3 == 0, np.arange(30) // 10
    inside[:10] = False  # a group that lies in one sample only
    weights = np.zeros(30)
    for group in (1, 2):
        first, second = (np.flatnonzero((groups == group) & part) for part in (inside, ~inside))
        share = len(first) * len(second) / (len(first) + len(second))
        weights[first], weights[second] = share / len(first), -share / len(second)
    weights /= weights[inside].sum()
    expected = sum(weights[i] * weights[j] * kernel[i, j] for i in range(30) for j in range(30))
    assert mmd.discrepancies(kernel, inside[None], groups)[0] == pytest.approx(expected, rel=1e-4)


def test_the_kind_of_a_shift_is_known_when_each_answer_has_few_images() -> None:
    random, count = np.random.default_rng(0), 60
    places = random.standard_normal((count, WIDTH)) * 3
    groups = np.zeros(800, np.int64)

    def kind(shift: float, frequent: float) -> tuple[bool, bool]:
        """Return the tests, at the shares and at equal ones, of a window with a class `frequent` times as often."""
        shares = np.where(np.arange(count) == 0, frequent, 1.0)
        answers = np.concatenate([random.integers(0, count, 400), random.choice(count, 400, p=shares / shares.sum())])
        window = np.arange(800) >= 400
        rows = places[answers] + random.standard_normal((800, WIDTH)) + shift * window[:, None]
        kernel, members = mmd.kernel(rows), mmd.memberships(window, groups, random)
        embedding = Drawn.of(mmd.discrepancies(kernel, members, groups), 0.005)
        return embedding.exceeded, label_shift.within_answers(kernel, window, answers, random, 0.005).exceeded

    assert [kind(0, 1), kind(0.7, 1), kind(0, 20), kind(0.7, 20)] == [
        *((False, False), (True, True), (True, False), (True, True))
    ]


def many_classes(seed: int, frequent: float = 1.0) -> tuple[Reference, Images]:
    """Return the reference of 500 images of 60 classes, half of them answered right, and a window of 200 more.

    The first class of the window has `frequent` times its share.
    """
    count, width, random = 60, 32, np.random.default_rng(seed)
    places = np.random.default_rng(0).normal(0, 0.7, (count, width))
    shares = np.where(np.arange(count) == 0, frequent, 1.0)
    labels = np.concatenate([random.integers(0, count, 500), random.choice(count, 200, p=shares / shares.sum())])
    rows = places[labels] + random.standard_normal((700, width))
    answers = np.where(random.random(700) < 0.5, labels, random.integers(0, count, 700))
    statistics, confidences = random.random((700, 3)), np.full(700, 0.7)
    ones = np.ones(width, np.float32)
    known = Reference(
        directions=np.eye(width, dtype=np.int8),
        scale=ones,
        offset=0 * ones,
        embeddings=np.round(rows[:500] * 16).astype(np.int8),
        step=np.full(width, 1 / 16, np.float32),
        statistics=statistics[:500].astype(np.float32),
        confidences=confidences[:500].astype(np.float32),
        answers=answers[:500].astype(np.int32),
        labels=labels[:500].astype(np.int32),
    )
    return known, Images(rows[500:], statistics[500:], confidences[500:], answers[500:])


def test_one_frequent_class_of_many_is_label_shift_though_mmd_hardly_sees_it() -> None:
    verdicts = [judge(*many_classes(seed, 10)) for seed in range(12)]
    assert sum(verdict.kind == "label shift" for verdict in verdicts) >= 8
    assert sum(verdict.embedding.p <= LEVEL for verdict in verdicts) <= 5
    assert any("one class is more frequent" in verdict.sentence for verdict in verdicts)


def test_the_level_of_the_test_of_classes_is_kept() -> None:
    assert sum(judge(*many_classes(seed)).classes.p <= 0.05 for seed in range(20)) <= 4


def test_one_answer_to_all_images_is_no_frequent_class() -> None:
    random = np.random.default_rng(0)
    members = mmd.memberships(np.arange(150) >= 100, np.zeros(150, np.int64), random)
    for rows in (np.ones((150, 4)), random.standard_normal((150, 4))):
        assert not Drawn.of(classes.excesses(rows, np.zeros(150, np.int64), members), 0.005).exceeded


def test_a_small_shift_of_all_images_is_seen_when_each_answer_has_few() -> None:
    random, count = np.random.default_rng(0), 60
    places = random.standard_normal((count, WIDTH)) * 3
    answers, window, exceeded = random.integers(0, count, 500), np.arange(500) >= 400, []
    for shift in (0, 0.3):
        rows = places[answers] + random.standard_normal((500, WIDTH)) + shift * window[:, None]
        exceeded.append(label_shift.within_answers(mmd.kernel(rows), window, answers, random, 0.005).exceeded)
    assert exceeded == [False, True]


def test_permutations_stay_within_groups() -> None:
    random = np.random.default_rng(0)
    window, groups = random.random(50) < 0.4, random.integers(0, 5, 50)
    members = mmd.memberships(window, groups, random)
    assert (members[0] == window).all() and members.shape == (mmd.PERMUTATIONS + 1, 50)
    for group in range(5):
        assert (members[:, groups == group].sum(axis=1) == window[groups == group].sum()).all()
    movable = [row for row in range(50) if 0 < window[groups == groups[row]].sum() < (groups == groups[row]).sum()]
    assert members[:, movable].any(axis=0).all() and not members[:, movable].all(axis=0).any()


def test_identical_images_raise_no_alarm_and_no_warning() -> None:
    rows, groups = np.ones((150, 4)), np.zeros(150, np.int64)
    members = mmd.memberships(np.arange(150) >= 100, groups, np.random.default_rng(0))
    test = Drawn.of(mmd.discrepancies(mmd.kernel(rows), members, groups), 0.005)
    assert test.p == 1 and not test.exceeded


def test_a_clean_window_is_no_shift(reference: Reference) -> None:
    verdicts = [judge(reference, images(100, seed)) for seed in range(100, 140)]
    assert sum(verdict.kind != "none" for verdict in verdicts) <= 2
    assert verdicts[0].sentence == "The last 100 images are like those of validation."
    assert set(verdicts[0].columns) == set(NAMES)


def test_an_input_shift_is_named_and_its_cause(reference: Reference) -> None:
    verdict = judge(reference, images(100, 7, shift=2.0))
    assert verdict.kind == "input shift" and "sharpness" in verdict.exceeded and "brightness" not in verdict.exceeded
    assert "differ from those of validation (MMD²" in verdict.sentence and "sharpness" in verdict.sentence


def test_a_label_shift_is_named_as_such(reference: Reference) -> None:
    shares = (0.7, 0.1, 0.1, 0.1)
    verdicts = [judge(reference, images(100, seed, shares=shares)) for seed in range(20)]
    assert {verdict.kind for verdict in verdicts} == {"label shift"}
    assert "The shares of the classes have changed in the last 100 images" in verdicts[0].sentence
    both = judge(reference, images(100, 7, shift=2.0, shares=shares))
    assert both.kind == "input shift" and "class" in both.exceeded


def test_distances_of_histograms_are_those_of_their_definitions() -> None:
    first, second = np.array([10.0, 20.0, 0.0]), np.array([5.0, 5.0, 10.0])
    assert histograms.jensen_shannon(first, first) == 0
    assert histograms.jensen_shannon(np.array([1.0, 0]), np.array([0, 1.0])) == pytest.approx(1)
    a, b = (10.5 / 31.5, 20.5 / 31.5, 0.5 / 31.5), (5.5 / 21.5, 5.5 / 21.5, 10.5 / 21.5)
    expected = sum((x - y) * np.log(x / y) for x, y in zip(a, b, strict=True))
    assert histograms.psi(first, second) == pytest.approx(expected)


def test_bins_hold_as_many_images_each_and_unknown_values_have_one() -> None:
    values = np.arange(100.0)
    assert np.bincount(histograms.bins(values, values)).tolist() == [10] * 10
    assert histograms.bins(values, np.array([np.nan, -5.0, 500.0])).tolist() == [10, 0, 9]
    assert set(histograms.bins(np.zeros(50), np.array([-1.0, 0.0, 1.0])).tolist()) == {0, 1}


def test_accuracy_without_labels_follows_the_confidence() -> None:
    random = np.random.default_rng(0)

    def draw(count: int, easy: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        confidences = np.where(
            random.random(count) < easy, random.uniform(0.9, 1, count), random.uniform(0.1, 0.4, count)
        )
        return confidences, random.random(count) < confidences

    errors, covered = [], []
    for easy in (0.8, 0.7, 0.6) * 30:
        known, window = draw(500, 0.8), draw(400, easy)
        estimated, truth = accuracy.estimate(*known, window[0]), window[1].mean()
        errors.append(abs(estimated.value - truth))
        covered.append(estimated.low <= truth <= estimated.high)
    assert np.mean(errors) < 0.03 and np.mean(covered) >= 0.9


def test_accuracy_of_a_perfect_validation_is_a_number() -> None:
    estimated = accuracy.estimate(np.full(100, 0.99), np.full(100, True), np.full(100, 0.99))
    assert estimated.value == 1 and estimated.high == 1 and 0.9 < estimated.low < 1


def test_an_estimate_far_from_validation_is_not_reliable(reference: Reference) -> None:
    assert judge(reference, images(400, 3)).reliable
    assert not judge(reference, images(400, 3, shift=6.0)).reliable
    unsure = images(400, 3)
    assert not judge(reference, dataclasses.replace(unsure, confidences=unsure.confidences / 2)).reliable


def ring(window: Images, seconds_ago: float, version: str = "1.0") -> Copy:
    """Return the ring of a worker that answered these images, the first of them some seconds ago."""
    count = len(window)
    values = {
        "time": time.time() - seconds_ago + np.arange(count) / 1000,
        "place": window.answers,
        "confidence": window.confidences,
        **dict(zip(Statistics._fields, window.statistics.T, strict=True)),
    }
    columns = np.column_stack([values.get(name, np.full(count, np.nan)) for name in COLUMNS])
    return Copy("m", version, np.arange(count) + 1, columns, np.asarray(window.embeddings))


def test_windows_run_over_the_rings_of_all_workers(reference: Reference) -> None:
    seconds = 0.0
    drift = LiveDrift(reference, clock=lambda: seconds, cost=lambda: 0.0)

    def kinds(*copies: Copy) -> dict[int, str]:
        return {size: verdict.kind for size, verdict in drift.verdicts(lambda: copies).items()}

    assert kinds() == {}
    seconds += SECONDS
    assert kinds(ring(images(60, 1), 50), ring(images(39, 2), 49)) == {}
    seconds += SECONDS
    clean = [ring(images(60, 1), 50), ring(images(60, 2), 49)]
    assert kinds(*clean) == {100: "none"}
    moved = [*clean, ring(images(100, 3, shift=6.0), 10)]
    seconds += SECONDS - 1
    assert kinds(*moved) == {100: "none"}  # the next test is not due
    seconds += 1
    assert kinds(*moved) == {100: "input shift"}
    seconds += SECONDS
    assert kinds(*moved, ring(images(400, 4), 5)) == {100: "none", 500: "input shift"}
    seconds += SECONDS
    assert kinds(ring(images(100, 4), 4000)) == {}  # an hour without images


def test_a_window_is_not_tested_again_without_newer_images(reference: Reference) -> None:
    seconds = 0.0
    drift, copies = LiveDrift(reference, clock=lambda: seconds, cost=lambda: 0.0), [ring(images(100, 1), 5)]
    first = drift.verdicts(lambda: copies)[100]
    seconds += SECONDS
    assert drift.verdicts(lambda: copies)[100] is first
    seconds += SECONDS
    assert drift.verdicts(lambda: [*copies, ring(images(1, 2), 1)])[100] is not first


def test_tests_take_a_small_share_of_a_core() -> None:
    seconds = spent = 0.0
    reads = []

    def read() -> list[Copy]:
        nonlocal spent
        spent += 0.19
        reads.append(seconds)
        return []

    drift = LiveDrift(drawn_reference(), clock=lambda: seconds, cost=lambda: spent)
    for _ in range(100):
        drift.verdicts(read)
        seconds += SECONDS
    assert len(reads) == 25 and spent <= SHARE * seconds


def test_images_from_before_the_clock_was_set_back_do_not_hide_newer_ones(reference: Reference) -> None:
    copies = [ring(images(500, 1, shift=6.0), -3000), ring(images(100, 2), 5)]
    assert {size: verdict.kind for size, verdict in LiveDrift(reference).verdicts(lambda: copies).items()} == {
        100: "none"
    }


def test_images_without_an_embedding_do_not_count(reference: Reference) -> None:
    window = images(100, 1)
    unknown = dataclasses.replace(window, embeddings=np.full_like(window.embeddings, np.nan))
    bare = ring(images(100, 2), 5)
    bare = dataclasses.replace(bare, embeddings=bare.embeddings[:, :0])
    assert LiveDrift(reference).verdicts(lambda: [ring(unknown, 9), bare]) == {}


def test_without_a_reference_there_is_no_verdict() -> None:
    for known in (None, drawn_reference(99)):
        drift = LiveDrift(known)
        assert drift.reference is None and drift.verdicts(lambda: [ring(images(200, 1, shift=9.0), 5)]) == {}


def test_the_reference_is_read_from_an_archive(reference: Reference, tmp_path: Path) -> None:
    reference.write(tmp_path / REFERENCE)
    with zipfile.ZipFile(tmp_path / "m.mar", "w") as file:
        file.write(tmp_path / REFERENCE, REFERENCE)
    read = reference_of(tmp_path / "m.mar")
    assert read is not None and np.array_equal(read.rows, reference.rows)
    with zipfile.ZipFile(tmp_path / "bare.mar", "w"):
        pass
    assert reference_of(tmp_path / "bare.mar") is None
