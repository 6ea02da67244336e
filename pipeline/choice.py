"""Whether a fine-tuned network takes the place of the one that is served: by its validation images."""

import dataclasses
from pathlib import Path
from typing import Self

import numpy as np

SIGNIFICANT = 0.05  # largest p of a loss that forbids the second network


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """Two networks on the same validation images: top-1 and log-loss of each, and McNemar's p of their difference.

    `losses` counts images that are answered right by the first network only, `gains` those by the second only. p is
    that of `training.scores.mcnemar`.
    """

    images: int
    top_1: tuple[float, float]
    log_loss: tuple[float, float]
    losses: int
    gains: int
    p: float

    @classmethod
    def of(cls, first: Path, second: Path) -> Self:
        """Compare two networks by the files of their answers to the same validation images."""
        from training.scores import mcnemar  # takes a second to import

        answers = [np.load(path) for path in (first, second)]
        labels = answers[0]["labels"]
        assert np.array_equal(labels, answers[1]["labels"]), (first, second)
        if not len(labels):
            return cls(0, (0.0, 0.0), (0.0, 0.0), 0, 0, 1.0)
        probabilities = [answer["probabilities"].astype(np.float64) for answer in answers]
        right = [values.argmax(axis=1) == labels for values in probabilities]
        true = [values[np.arange(len(labels)), labels].clip(1e-12) for values in probabilities]
        losses, gains = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        p = mcnemar(losses, gains)
        top_1, log_loss = [float(part.mean()) for part in right], [float(-np.log(part).mean()) for part in true]
        return cls(len(labels), (top_1[0], top_1[1]), (log_loss[0], log_loss[1]), losses, gains, p)

    @property
    def deploys(self) -> bool:
        """Return whether the second network is the better one: by top-1, or by log-loss and not clearly worse by top-1.

        Of a hundred validation images one or two are chance; the log-loss uses every probability, and says more.
        """
        if self.gains > self.losses:
            return True
        is_clearly_worse = self.losses > self.gains and self.p < SIGNIFICANT
        return not is_clearly_worse and self.log_loss[1] < self.log_loss[0]

    def line(self) -> str:
        """Return what decided, for people."""
        if not self.images:
            return "no validation images to compare the two networks on: the served one stays"
        verdict = (
            "better than the served network" if self.deploys else "not better than the served network, which stays"
        )
        return (
            f"fine-tuned: {verdict}. Of {self.images:,} validation images: top-1 {self.top_1[0]:.1%} before, "
            f"{self.top_1[1]:.1%} now; log-loss {self.log_loss[0]:.3f} and {self.log_loss[1]:.3f}; McNemar's p "
            f"{self.p:.2g} ({self.gains} gained, {self.losses} lost)"
        )
