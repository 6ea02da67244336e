"""The statistics of two versions: against other computations of them, and by simulation with fixed seeds."""

import numpy as np
import pytest

from serving.rollout.evidence import evidence, mcnemar, paired_change, wilson
from training import scores

LEVEL, RUNS, LENGTH = 0.05, 400, 2000
CHANCE = 2 * (LEVEL * (1 - LEVEL) / RUNS) ** 0.5  # of a share of runs


@pytest.mark.parametrize(("losses", "gains"), [(0, 0), (1, 0), (3, 9), (9, 3), (10, 10), (200, 250)])
def test_mcnemar_is_that_of_the_evaluation(losses: int, gains: int) -> None:
    assert mcnemar(losses, gains) == pytest.approx(scores.mcnemar(losses, gains))


@pytest.mark.parametrize(("successes", "trials"), [(0, 9), (5, 9), (9, 9), (940, 1000)])
def test_the_interval_is_that_of_the_evaluation(successes: int, trials: int) -> None:
    estimate = scores.proportion(successes, trials)
    assert estimate is not None and wilson(successes, trials) == pytest.approx((estimate.low, estimate.high))
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("losses", "gains", "images"), [(0, 0, 4), (30, 12, 400), (200, 100, 2000)])
def test_the_interval_of_a_change_is_that_of_the_evaluation(losses: int, gains: int, images: int) -> None:
    loss = scores.paired_loss(losses, gains, images)
    assert paired_change(losses, gains, images) == pytest.approx((-loss.high, -loss.low))


def alarms(chance: float, limit: float) -> float:
    """Return the share of runs in which the evidence exceeds 1 / LEVEL at any of `LENGTH` looks."""
    random = np.random.default_rng(0)
    looks = range(0, LENGTH, 20)
    count = 0
    for _ in range(RUNS):
        sums = np.cumsum(random.random(LENGTH) < chance)
        count += any(evidence(int(sums[place]), place + 1, limit) >= 1 / LEVEL for place in looks)
    return count / RUNS


@pytest.mark.parametrize("limit", [0.01, 0.1, 0.5])
def test_false_alarms_are_rarer_than_the_level_however_often_it_is_looked_at(limit: float) -> None:
    assert alarms(limit, limit) <= LEVEL + CHANCE
    assert alarms(limit * 0.8, limit) <= LEVEL


@pytest.mark.parametrize(("chance", "limit"), [(0.03, 0.01), (0.15, 0.1), (0.6, 0.5)])
def test_a_chance_above_the_limit_is_seen(chance: float, limit: float) -> None:
    assert alarms(chance, limit) >= 0.99


def test_nothing_is_evidence_without_trials_or_above_a_limit_of_one() -> None:
    assert evidence(0, 0, 0.5) == pytest.approx(1.0)
    assert evidence(10, 10, 1.0) == 0.0
    assert evidence(3, 3, 0.0) > 1e9
    assert evidence(10**6, 10**6, 0.5) > 1e300
