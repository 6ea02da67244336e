"""When a trial with live requests refuses the new version: tests that may be looked at after every request.

Of each criterion, images are counted for and against the new version. It is refused once the `evidence` against it
exceeds 1 / level. The levels add up to 0.05, so an equal version is refused in at most 5 % of all trials.
"""

import dataclasses

from serving.rollout.comparison import Comparison
from serving.rollout.evidence import evidence

RIGHT_LEVEL, LEVEL = 0.03, 0.02 / 3  # false alarms: of right answers, of each of the other criteria
ERRORS = 0.01  # share of requests that may fail
SLOW = 0.1  # share of answers that may take longer than the limit


@dataclasses.dataclass(frozen=True, slots=True)
class Criterion:
    """Images against the new version among those that were counted, and the share of them that is allowed."""

    name: str
    against: int
    images: int
    allowed: float
    level: float = LEVEL

    @property
    def evidence(self) -> float:
        """Return the evidence that the share is larger than it may be."""
        return evidence(self.against, self.images, self.allowed)

    @property
    def refuses(self) -> bool:
        """Return whether it is enough to refuse the version."""
        return self.evidence >= 1 / self.level

    def __str__(self) -> str:
        """Return it for people."""
        return (
            f"{self.name}: {self.against} of {self.images:,}, allowed {self.allowed:.0%}; evidence "
            f"{min(self.evidence, 1e6):.3g} (refused from {1 / self.level:.0f} on)"
        )


def criteria(compared: Comparison, slow: int, failures: int, agreement: float | None) -> list[Criterion]:
    """Return the criteria of a trial.

    Args:
        slow: number of the timed images whose new answer took too long.
        failures: requests that the new version failed to answer to a client.
        agreement: share of equal answers that is asked for.
    """
    count, score = len(compared.pairs), compared.paired()
    different = [] if agreement is None else [
        Criterion("other answers", count - compared.agreeing, count, 1 - agreement)
    ]  # fmt: skip
    return [
        Criterion("only the live version is right", score.losses, score.losses + score.gains, 0.5, RIGHT_LEVEL),
        Criterion("not answered", compared.unanswered + failures, count + failures, ERRORS),
        Criterion("too slow", slow, len(compared.timed()), SLOW),
        *different,
    ]
