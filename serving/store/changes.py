"""The differences between two archives of one model, shown before a swap."""

from serving.store.model_store import Archive


def changes(before: Archive, after: Archive) -> list[str]:
    """Return a line for each difference in classes, preprocessing, network and metrics."""
    old, new = before.spec(), after.spec()
    lines = [
        f"classes {word}: {', '.join(names)}"
        for word, names in (
            ("added", [name for name in new["classes"] if name not in old["classes"]]),
            ("removed", [name for name in old["classes"] if name not in new["classes"]]),
        )
        if names
    ]
    if not lines and old["classes"] != new["classes"]:
        lines.append("the classes are in another order")
    for key in sorted({*old["preprocess"], *new["preprocess"]}):
        then, now = old["preprocess"].get(key), new["preprocess"].get(key)
        if then != now:
            lines.append(f"preprocessing, {key}: {_short(then)} -> {_short(now)}")
    if old["network"] != new["network"]:
        lines.append(f"network: {old['network']} -> {new['network']}")
    then, now = top_1(before), top_1(after)
    if then is not None and now is not None:
        lines.append(f"test top-1: {then:.2%} -> {now:.2%}")
    elif now is not None or then is not None:
        lines.append(f"test top-1: {_percent(then)} -> {_percent(now)}")
    return lines


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
