"""The decision of a trial with live requests: drawn answers of an equal and of a worse version, with fixed seeds."""

import math
from collections.abc import Callable

import numpy as np

from serving.rollout.comparison import Answer, Comparison, Pair
from serving.rollout.decision import RIGHT_LEVEL, Criterion, criteria

IMAGES, STEP = 2000, 5


def drawn(seed: int, losses: float, gains: float) -> list[bool]:
    """Return whether each of the images that only one version answers right was answered right by the live one."""
    outcome = np.random.default_rng(seed).random(IMAGES)
    return [bool(value < losses) for value in outcome if value < losses + gains]


def refused(losing: list[bool]) -> bool:
    """Return whether looks at growing numbers of images refuse the version."""
    return any(
        Criterion("", sum(losing[:count]), count, 0.5, RIGHT_LEVEL).refuses for count in range(0, len(losing) + 1, STEP)
    )


def test_an_equal_version_is_refused_in_few_trials_however_much_it_differs() -> None:
    for share in (0.02, 0.1, 0.2):
        assert sum(refused(drawn(seed, share / 2, share / 2)) for seed in range(400)) <= 400 * RIGHT_LEVEL * 1.5


def test_a_version_that_is_worse_by_five_points_is_refused() -> None:
    assert sum(refused(drawn(seed, 0.08, 0.03)) for seed in range(200)) >= 198
    assert not any(refused(drawn(seed, 0.03, 0.08)) for seed in range(200)), "a better one never is"


def compared(count: int, new: Callable[[int], Answer | None]) -> Comparison:
    live = Answer("wren", 0.9, 0.01)
    pairs = [Pair(f"r{n}", 0, str(n), live, new(n), "" if new(n) else "NoAnswer") for n in range(count)]
    return Comparison(pairs)


def names(comparison: Comparison, slow: int = 0, failures: int = 0, agreement: float | None = None) -> list[str]:
    return [each.name for each in criteria(comparison, slow, failures, agreement) if each.refuses]


def test_each_criterion_counts_what_it_names() -> None:
    same = compared(200, lambda n: Answer("wren", 0.8, 0.02))
    assert names(same, agreement=0.99) == []
    assert names(same, slow=60) == ["too slow"]
    assert names(same, failures=15) == ["not answered"]
    assert names(compared(200, lambda n: Answer("wren", 0.8) if n % 10 else None)) == ["not answered"]
    images = {each.name: each.images for each in criteria(same, 0, 15, 0.99)}
    assert images == {
        "only the live version is right": 0, "not answered": 215, "too slow": 200, "other answers": 200
    }  # fmt: skip
    other = compared(200, lambda n: Answer("wren" if n % 5 else "robin", 0.8))
    assert names(other) == [] and names(other, agreement=0.95) == ["other answers"]
    other.labels = {str(n): "wren" for n in range(200)}
    assert names(other) == ["only the live version is right"]
    other.labels = {str(n): "robin" for n in range(200)}
    assert names(other) == []


def test_a_criterion_is_a_line_for_people() -> None:
    text = str(Criterion("not answered", 30, 1000, 0.01))
    assert text.startswith("not answered: 30 of 1,000, allowed 1%; evidence ") and text.endswith(
        "(refused from 150 on)"
    )
    assert str(Criterion("too slow", 0, 0, 0.1)).startswith("too slow: 0 of 0, allowed 10%; evidence 1 ")
    assert not math.isnan(Criterion("too slow", 0, 0, 0.1).evidence)
