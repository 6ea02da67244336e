"""The README's table of what swaps, crashes, tokens and long runs cost."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.markdown import NOT_MEASURED, load, machine, table

FILES = ("swaps", "crashes", "soak", "keys", "load")
Row = tuple[str, str, str, str]


def operations(results: Path) -> str:
    """Make the table; what was not measured is said in its row."""
    documents = {name: load(results / f"{name}.json") for name in FILES}
    if not any(documents.values()):
        return NOT_MEASURED
    rows: list[Row] = []
    for name, made in (("swaps", _swaps), ("crashes", _crashes), ("soak", _soak), ("keys", _keys), ("load", _load)):
        document = documents[name]
        if document is None:
            rows.append((name, NOT_MEASURED, "", f"`python -m benchmarks.{name}`"))
            continue
        command = f"`{document['command']}`"
        rows += [(*each, command if number == 0 else "") for number, each in enumerate(made(document))]
    measured = [machine(each) for each in documents.values() if each is not None]
    note = f"\n\nA narrow ResNet-18-D at 64 x 64, fp32. {measured[0]}." if measured else ""
    return table(["what was done", "what came of it", "goal", "command"], rows) + note


def _swaps(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    row = document["rows"]["open loop"]
    lost = f"{row['failed']} failed, {row['wrong_version']} of a wrong version, of {row['requests']:,} requests"
    yield f"{row['deployments']} deployments, {document['rate']:g} requests/s", lost, "0, 0"
    yield "the switch itself, longest", f"{row['switch_seconds'] * 1e3:.0f} ms", "1 s"
    p99 = f"{row['during']['p99']:.0f} / {row['between']['p99']:.0f} ms: {row['p99_ratio']:g} times"
    yield "99 % of requests, during / between swaps", p99, "2 times"
    yield "the slowest request", f"{row['slowest_ms']:.0f} ms", ""
    row = document["rows"]["saturated"]
    lost = f"{row['failed']} failed, {row['wrong_version']} of a wrong version, of {row['requests']:,} requests"
    yield f"{row['deployments']} deployments at saturation, 16 connections", lost, "0, 0"


def _crashes(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    if row := document.get("workers"):
        seen = f"{row['failed']} failed of {row['requests']:,}; READY again after {row['ready_seconds']:.1f} s (median)"
        yield f"{row['killed']} workers killed, through the client", seen, "0; 6 s"
    if row := document.get("servers"):
        seen = f"live again after {row['back_seconds']:.1f} s at most, {row['failed']} of {row['requests']:,} failed"
        yield f"{row['killed']} servers killed, with `make watch`", seen, "20 s"
    if steps := document["steps"]:
        whole = sum(each["whole"] for each in steps)
        yield "everything killed, at each step of a deployment", f"{whole} of {len(steps)} times whole", "all"


def _soak(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, what, goal in (("requests", "", "50 MB"), ("leaking", ", a handler that leaks", "more than 50 MB")):
        row = document[name]
        seen = f"{row['failed']} failed; memory at most {row['above_mean_mb']:.0f} MB above its mean"
        yield f"{row['requests']:,} requests{what}", seen, goal
    row = document["registrations"]
    seen = f"{row['growth_mb']:+.0f} MB, {row['folder_growth']:+d} temporary files, {row['failed']} failed"
    yield f"{row['registrations']} registrations and removals", seen, "50 MB, 0"


def _keys(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    seen = f"{document['failures']} failed of {document['requests']:,}, {sum(document['renewals'])} renewals"
    yield f"tokens of {document['token_seconds']:g} s, for {document['seconds']:.0f} s", seen, "0"


def _load(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for each in document["runs"]:
        yield each["what"], f"{each['failures']} failed of {each['requests']:,}, exit {each['exit']}", each["goal"]
