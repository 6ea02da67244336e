"""The table of docs/operations.md: what swaps, crashes and long runs cost."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages.markdown import NOT_MEASURED, load, table

Row = tuple[str, str, str]


def operations(results: Path) -> str:
    """Make the table; a section without a measurement has a row that says so."""
    documents = {name: load(results / f"{name}.json") for name in SECTIONS}
    if all(document is None for document in documents.values()):
        return NOT_MEASURED
    rows = [row for name, document in documents.items() for row in _rows(name, document)]
    head = ["what was done", "what came of it", "goal", "command"]
    return table(head, rows) + "\n\nA narrow ResNet-18-D at 64 x 64, fp32."


def _rows(name: str, document: Mapping[str, Any] | None) -> Iterator[tuple[str, str, str, str]]:
    """Yield the rows of one result; the first row of a section names its command."""
    for section, rows in SECTIONS[name].items():
        figures = _figures(document, section)
        if document is None or figures is None:
            yield f"{name} {section}".strip(), NOT_MEASURED, "", f"`python -m benchmarks.{name}`"
            continue
        command = document["commands"][section] if section else document["command"]
        for number, row in enumerate(rows(figures)):
            yield *row, "" if number else f"`{command}`"


def _figures(document: Mapping[str, Any] | None, section: str) -> Any:
    """Return the figures of a section, None without a measurement."""
    return document if document is None or section == "" else document.get("sections", {}).get(section)


def _swaps(row: Mapping[str, Any]) -> Iterator[Row]:
    failures = f"{row['failed']} failed, {row['wrong_version']} of a wrong version, of {row['requests']:,} requests"
    yield f"{row['deployments']} deployments, {row['rate']:g} requests/s", failures, "0, 0"
    yield "the switch itself, longest", f"{row['switch_seconds'] * 1e3:.0f} ms", "1 s"
    p99 = f"{row['during']['p99']:.0f} / {row['between']['p99']:.0f} ms: {row['p99_ratio']:g} times"
    yield "99 % of requests, during / between swaps", p99, "2 times"
    yield "the slowest request", f"{row['slowest_ms']:.0f} ms", ""


def _saturated(row: Mapping[str, Any]) -> Iterator[Row]:
    failures = f"{row['failed']} failed, {row['wrong_version']} of a wrong version, of {row['requests']:,} requests"
    yield f"{row['deployments']} deployments at saturation, {row['connections']} connections", failures, "0, 0"


def _workers(row: Mapping[str, Any]) -> Iterator[Row]:
    outcome = f"{row['failed']} failed of {row['requests']:,}; READY again after {row['ready_seconds']:.1f} s (median)"
    yield f"{row['killed']} workers killed, through the client", outcome, "0; 6 s"


def _servers(row: Mapping[str, Any]) -> Iterator[Row]:
    outcome = f"live again after {row['back_seconds']:.1f} s at most, {row['failed']} of {row['requests']:,} failed"
    yield f"{row['killed']} servers killed, with `make watch`", outcome, "20 s"


def _steps(rows: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    whole = sum(row["whole"] for row in rows)
    yield "server and deployment killed at each step of a deployment", f"recovered {whole} of {len(rows)} times", "all"


def _requests(row: Mapping[str, Any], kind: str = "", goal: str = "50 MB") -> Iterator[Row]:
    outcome = f"{row['failed']} failed; memory at most {row['above_mean_mb']:.0f} MB above its mean"
    yield f"{row['requests']:,} requests{kind}", outcome, goal


def _leaking(row: Mapping[str, Any]) -> Iterator[Row]:
    yield from _requests(row, ", a handler that leaks", "control: more than 50 MB")


def _registrations(row: Mapping[str, Any]) -> Iterator[Row]:
    first = f"{row['growth_from_first_mb']:+.0f} MB from the very first"
    outcome = f"{row['growth_mb']:+.0f} MB after a tenth of them ({first}), {row['folder_growth']:+d} temporary files, "
    outcome += f"{row['failed']} failed"
    yield f"{row['registrations']} registrations and removals", outcome, "50 MB, 0"


def _load(document: Mapping[str, Any]) -> Iterator[Row]:
    for run in document["runs"]:
        yield run["what"], f"{run['failures']} failed of {run['requests']:,}, exit {run['exit']}", run["goal"]


# Result -> its sections in the order of the table; "" is a document without sections
SECTIONS: dict[str, dict[str, Callable[[Any], Iterator[Row]]]] = {
    "swaps": {"open loop": _swaps, "saturated": _saturated},
    "crashes": {"workers": _workers, "servers": _servers, "steps": _steps},
    "soak": {"requests": _requests, "leaking": _leaking, "registrations": _registrations},
    "load": {"": _load},
}
