"""How the network that a verb has made live scores beside the one that was live before."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from serving.store import model_store
from serving.store.live import Live
from serving.store.model_store import Archive

Score = Mapping[str, float]  # `value`, `low` and `high` of `training.scores.Estimate`


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions of a model and their test top-1; `same_images` is whether the same prepared images judged both.

    Of versions with different classes, the scores are those on the images of the `common` classes.
    """

    name: str
    before: str
    after: str
    top_1_before: float | None  # None if it was not evaluated
    top_1: float
    same_images: bool
    drop: tuple[float, float] | None  # 95 % interval of the top-1 that is lost; None if `before` was not evaluated
    common: int | None = None  # classes of both versions; None if they have the same classes

    @classmethod
    def of(cls, root: Path, before: str | None, after: Archive, metrics: Mapping[str, Any]) -> Self | None:
        """Return the comparison of the version `before` with `after`, whose evaluation is `metrics`.

        None where no other version was live, or where no class of it is left.
        """
        if before in (None, after.version):
            return None
        old = Archive(after.name, before, model_store.path_of(after.name, before, root / model_store.FOLDER))
        provenance = old.provenance()
        same_images = provenance.get("dataset_fingerprint") == metrics.get("fingerprint")
        old_metrics = provenance.get("metrics") or {}
        old_score, new_score = old_metrics.get("top_1"), metrics["top_1"]
        common = _common(old_metrics, metrics)
        if common == []:
            return None
        if common:
            old_score, new_score = (_top_1_of(common, evaluation) for evaluation in (old_metrics, metrics))
        top_1_before = old_score["value"] if old_score else None
        drop = difference(old_score, new_score) if old_score else None
        count = len(common) if common else None
        return cls(after.name, before, after.version, top_1_before, new_score["value"], same_images, drop, count)

    @property
    def worse(self) -> bool:
        """Return whether the version that is live now scores lower by more than the noise of the test images."""
        return self.drop is not None and self.drop[0] > 0

    @property
    def better(self) -> bool:
        """Return whether the version that is live now scores higher by more than the noise of the test images."""
        return self.drop is not None and self.drop[1] < 0

    def lines(self, root: Path) -> list[str]:
        """Return lines for people: both scores, and how to go back if the new one is lower."""
        score = "not evaluated" if self.top_1_before is None else f"{self.top_1_before:.1%}"
        images = "" if self.same_images else " (the prepared images have changed between them)"
        of_classes = f" of the {self.common} classes of both" if self.common else ""
        scores = f"{self.name} {self.before} {score}, {self.name} {self.after} {self.top_1:.1%}"
        lines = [f"test top-1{of_classes}: {scores}{images}"]
        if self.drop is not None and not (self.worse or self.better):
            low, high = 100 * -self.drop[1], 100 * -self.drop[0]
            lines.append(f"no clear difference: the test images allow a change of {low:+.1f} to {high:+.1f} points")
        if self.worse:
            is_kept = Live.read(root).models[self.name].previous == self.before
            command = "make rollback" if is_kept else f"make deploy VERSION={self.before}"
            lines.append(
                f"warning: {self.after} is live and scores lower than {self.before}. Back: {command} NAME={self.name}"
            )
        return lines


def _common(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str] | None:
    """Return the classes of both evaluations with test images in both; None if their classes do not differ."""
    old, new = (evaluation.get("per_class") or {} for evaluation in (before, after))
    if not old or old.keys() == new.keys():
        return None
    return [name for name in old if name in new and old[name]["images"] and new[name]["images"]]


def _top_1_of(classes: Sequence[str], metrics: Mapping[str, Any]) -> Score:
    """Return the top-1 of the test images of some classes, with its interval."""
    from training.scores import plain, proportion  # takes a second to import

    rows = [metrics["per_class"][name] for name in classes]
    right = sum(round(row["images"] * row["recall"]["value"]) for row in rows)
    score = plain(proportion(right, sum(row["images"] for row in rows)))
    assert score is not None  # each class has images
    return score


def difference(first: Score, second: Score) -> tuple[float, float]:
    """Return the 95 % interval of how much higher the first of two proportions is, from their own intervals.

    Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10, which joins two
    Wilson intervals. An archive keeps no answers of single images, so a paired interval is not possible; for the same
    images, on which two networks tend to fail alike, this one is wider than needed.
    """
    value = first["value"] - second["value"]
    below = math.hypot(first["value"] - first["low"], second["high"] - second["value"])
    above = math.hypot(first["high"] - first["value"], second["value"] - second["low"])
    return value - below, value + above
