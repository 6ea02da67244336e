"""The documents of a run that its report shows."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from handlers.run_folder import RunFolder
from training.report.identity import measured_key


@dataclasses.dataclass(frozen=True, slots=True)
class Documents:
    """The documents of a run; one that an older or shorter run does not have is empty.

    `robustness` and `speed` are empty too if they are of another evaluation than `metrics`.
    """

    metrics: Mapping[str, Any]
    training: Mapping[str, Any]
    export: Mapping[str, Any]
    weights: Mapping[str, Any]
    robustness: Mapping[str, Any]
    speed: Mapping[str, Any]

    @classmethod
    def read(cls, run: RunFolder, metrics: Mapping[str, Any]) -> Self:
        """Read those of a run with these `metrics`."""
        training, export, weights = (document(path) for path in (run.training, run.export, run.weights))
        measured = (document(path, measured_key(metrics["key"])) for path in (run.robustness, run.speed))
        return cls(metrics, training, export, weights, *measured)


def document(path: Path, key: str | None = None) -> dict[str, Any]:
    """Return a JSON document; an empty one if it does not exist, or has another key than `key`."""
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
    return content if key is None or content.get("key") == key else {}
