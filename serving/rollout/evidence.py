"""Statistics of two versions that answer the same images, without scipy: a server's environment has none.

`evidence` may be looked at after every request, and a trial stopped as soon as it is large.
"""

import math
from statistics import NormalDist

import numpy as np

INTERVAL = 0.95
POINTS = 64  # of the mixture


def wilson(successes: int, trials: int, level: float = INTERVAL) -> tuple[float, float]:
    """Return both ends of Wilson's interval of a share, from 0 to 1 without trials."""
    if not trials:
        return 0.0, 1.0
    z, share = NormalDist().inv_cdf((1 + level) / 2), successes / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low, high = ((middle + sign * half) / (1 + z * z / trials) for sign in (-1, 1))
    return (low if successes else 0.0), (high if successes < trials else 1.0)


def mcnemar(losses: int, gains: int) -> float:
    """Return the p of McNemar's exact test; `training.scores.mcnemar` names the source."""
    trials = losses + gains
    ways = sum(math.comb(trials, count) for count in range(min(losses, gains) + 1))
    return min(1.0, float(2 * ways / 2**trials))


def paired_change(losses: int, gains: int, images: int) -> tuple[float, float]:
    """Return the interval of the change of a share; `training.scores.paired_loss` names the source."""
    lost, gained = (losses + 1) / (images + 2), (gains + 1) / (images + 2)
    half = NormalDist().inv_cdf((1 + INTERVAL) / 2) * math.sqrt((lost + gained - (gained - lost) ** 2) / (images + 2))
    return gained - lost - half, gained - lost + half


def evidence(successes: int, trials: int, limit: float) -> float:
    """Return the evidence that the chance of a success is above `limit`: 100 is 100 times the odds.

    A mixture of likelihood ratios over chances from `limit` to a quarter of the way to 1 (Robbins 1970, "Statistical
    methods related to the law of the iterated logarithm"). While the chance is at most `limit`, it ever exceeds
    1 / level with a probability of at most `level`, however often it is looked at (Ville 1939).
    """
    if limit >= 1:
        return 0.0
    chances = limit + (1 - limit) / 4 * np.arange(1, POINTS + 1) / POINTS
    logs = successes * np.log(chances / max(limit, 1e-9)) + (trials - successes) * np.log((1 - chances) / (1 - limit))
    top = float(logs.max())
    # Beyond e^700 a float has no room.
    return math.exp(min(700.0, top + math.log(float(np.exp(logs - top).mean()))))
