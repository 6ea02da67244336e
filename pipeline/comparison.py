"""How the network that a verb has made live scores beside the one that was live before."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from serving.store import model_store
from serving.store.changes import top_1
from serving.store.live import Live
from serving.store.model_store import Archive


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions of a model and their test top-1; `same_images` is whether the same prepared images judged both."""

    name: str
    before: str
    after: str
    top_1_before: float | None  # None if it was not evaluated
    top_1: float
    same_images: bool

    @classmethod
    def of(cls, root: Path, before: str | None, after: Archive, metrics: Mapping[str, Any]) -> Self | None:
        """Return the comparison of the version `before` with `after`, whose evaluation is `metrics`.

        None where no other version was live.
        """
        if before in (None, after.version):
            return None
        old = Archive(after.name, before, model_store.path_of(after.name, before, root / model_store.FOLDER))
        same_images = old.provenance().get("dataset_fingerprint") == metrics.get("fingerprint")
        return cls(after.name, before, after.version, top_1(old), metrics["top_1"]["value"], same_images)

    @property
    def worse(self) -> bool:
        """Return whether the version that is live now scores lower."""
        return self.top_1_before is not None and self.top_1 < self.top_1_before

    def lines(self, root: Path) -> list[str]:
        """Return lines for people: both scores, and how to go back if the new one is lower."""
        score = "not evaluated" if self.top_1_before is None else f"{self.top_1_before:.1%}"
        images = "" if self.same_images else " (the prepared images have changed between them)"
        lines = [f"test top-1: {self.name} {self.before} {score}, {self.name} {self.after} {self.top_1:.1%}{images}"]
        if self.worse:
            is_kept = Live.read(root).models[self.name].before == self.before
            command = "make rollback" if is_kept else f"make deploy VERSION={self.before}"
            lines.append(
                f"warning: {self.after} is live and scores lower than {self.before}. Back: {command} NAME={self.name}"
            )
        return lines
