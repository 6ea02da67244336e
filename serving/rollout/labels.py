"""The labels that came later for logged images of a model, which `monitoring.feedback` keeps beside its log."""

import json
from pathlib import Path
from typing import Any

FILE = "labels.jsonl"


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the labels in the folder of a model's log, each with the answer that it judges; the newest come last."""
    path = folder / FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def by_image(folder: Path) -> dict[str, str]:
    """Return the newest label of each labelled image, by its SHA-256."""
    return {row["sha256"]: row["label"] for row in read(folder)}


def time_of(folder: Path) -> int:
    """Return the time of the newest label, in nanoseconds, 0 without one."""
    path = folder / FILE
    return path.stat().st_mtime_ns if path.is_file() else 0
