"""The main scores of an evaluation, by the names that people read. Imports nothing."""

from collections.abc import Mapping
from typing import Any

Score = Mapping[str, float]  # `value`, `low` and `high` of `training.scores.Estimate`
NAMES = ("top_1", "top_5", "macro_f1", "calibration_error", "calibration_error_unscaled")


def main_scores(metrics: Mapping[str, Any]) -> list[tuple[str, Score]]:
    """Return the main scores of `metrics.json`, and top-1 of each part of the class names."""
    scores = [(name.replace("_", " "), metrics[name]) for name in NAMES]
    return scores + [(f"top 1 of the {name}", part["top_1"]) for name, part in metrics.get("parts", {}).items()]
