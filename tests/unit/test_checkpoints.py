"""Which epoch of a run is its best."""

import math
from pathlib import Path

import pytest

from training.checkpoints import Checkpoints


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([3.0, 1.0, 2.0], 2),
        ([1.0, 1.0], 1),
        ([math.nan] * 3, 3),  # without validation images the last one counts
        ([2.0, math.nan, 3.0], 1),  # a loss that overflows is not the best, nor is all that comes after it
        ([math.nan, 5.0, 6.0], 2),
    ],
)
def test_the_best_epoch_has_the_lowest_validation_loss(losses: list[float], best: int, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 10, None, lambda _: None)
    for epoch, loss in enumerate(losses, start=1):
        row = {"epoch": float(epoch), "validation_loss": loss}
        if checkpoints._is_best(row):
            checkpoints.best = row
    assert checkpoints.best is not None and checkpoints.best["epoch"] == best
