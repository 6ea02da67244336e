"""The differences between two archives of one model, shown before a swap."""

from collections.abc import Mapping, Sequence
from typing import Any

from serving.store.model_store import Archive


def changes(before: Archive, after: Archive) -> list[str]:
    """Return a line for each difference in classes, preprocessing, network and metrics."""
    old, new = before.spec(), after.spec()
    lines = _class_changes(old["classes"], new["classes"])
    lines += _preprocessing_changes(old["preprocess"], new["preprocess"])
    if old["network"] != new["network"]:
        lines.append(f"network: {old['network']} -> {new['network']}")
    return lines + _accuracy_changes(top_1(before), top_1(after))


def _class_changes(old: Sequence[str], new: Sequence[str]) -> list[str]:
    added, removed = [name for name in new if name not in old], [name for name in old if name not in new]
    lines = [f"classes added: {', '.join(added)}"] if added else []
    if removed:
        lines.append(f"classes removed: {', '.join(removed)}")
    if old != new and not lines:
        lines.append("the classes are in another order")
    return lines


def _preprocessing_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"preprocessing, {key}: {_short(old.get(key))} -> {_short(new.get(key))}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def _accuracy_changes(old: float | None, new: float | None) -> list[str]:
    """Return a line unless neither archive was evaluated."""
    return [] if old is None and new is None else [f"test top-1: {_percent(old)} -> {_percent(new)}"]


def top_1(archive: Archive) -> float | None:
    """Return the top-1 accuracy of an archive's network on the test images; None if it was not evaluated."""
    metrics = archive.provenance().get("metrics") or {}
    score = metrics.get("top_1") or {}  # with its interval
    return score.get("value")


def _percent(value: float | None) -> str:
    return "not evaluated" if value is None else f"{value:.2%}"


def _short(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
