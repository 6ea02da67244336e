"""The table of what the gateway costs and withstands."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.pages.markdown import NOT_MEASURED, load, table

Row = tuple[str, str, str]


def gateway(results: Path) -> str:
    """Make the table; a benchmark without a result has a row that says so."""
    documents = {name: load(results / f"gateway_{name}.json") for name in BENCHMARKS}
    if not any(documents.values()):
        return NOT_MEASURED
    rows = [row for name, document in documents.items() for row in _rows(name, document)]
    head = ["what was done", "what came of it", "goal", "command"]
    return table(head, rows) + "\n\nA narrow ResNet-18-D at 64 x 64, fp32; the load comes from the same cores."


def _rows(name: str, document: Mapping[str, Any] | None) -> Iterator[tuple[str, ...]]:
    """Yield the rows of one result; the first one has its command."""
    if document is None:
        yield name, NOT_MEASURED, "", f"`python -m benchmarks.gateway.{name}`"
        return
    for number, row in enumerate(BENCHMARKS[name](document)):
        yield *row, "" if number else f"`{document['command']}`"


def _kills(row: Mapping[str, Any]) -> Iterator[Row]:
    kills = row["kills"]
    action = (
        f"{kills['workers']} workers and {kills['nodes']} of {row['nodes']} nodes killed, {row['rate']:g} requests/s"
    )
    yield action, f"{row['failed']} of {row['requests']:,} failed, {row['silent']} without an answer", "0, 0"
    yield "the slowest request", f"{row['slowest']:.1f} s", "5 s"


def _silence(row: Mapping[str, Any]) -> Iterator[Row]:
    action = f"{row['killed']} workers killed within 0.15 s of a request, by which TorchServe lost {row['lost']}"
    yield action, f"{row['failed']} of {row['killed']} failed; the slowest took {row['slowest']:.1f} s", "0; 5 s"


def _rotation(row: Mapping[str, Any]) -> Iterator[Row]:
    action = f"{row['tokens']} tokens in {row['minutes']:g} minutes, {row['rate']:g} requests/s"
    yield action, f"{row['failed']} of {row['requests']:,} failed, {row['repeats']} sent again", "0"


def _guests(row: Mapping[str, Any]) -> Iterator[Row]:
    guests = row["guests"]
    action = f"{guests['slow']} slow and {guests['idle']} idle clients, "
    action += f"{guests['oversized_per_second']} bodies of 30 MB a second"
    ratio = (
        f"{row['failed']} of {row['requests']:,} good requests failed; p99 {row['p99_ratio']:.1f} times that without"
    )
    yield action, ratio, "0; 2 times"


def _fuzz(row: Mapping[str, Any]) -> Iterator[Row]:
    for name in ("gateway", "torchserve"):
        part = row[name]
        same = "the same processes" if all(part["same_processes"].values()) else "**processes were replaced**"
        text = f"{part['server_errors']} answers of 5xx, {part['open']} without an end, {same}"
        where = "at the gateway" if name == "gateway" else "at TorchServe alone"
        yield f"{part['requests']:,} mutated requests {where}", text, "0, 0" if name == "gateway" else ""


def _overrun(row: Mapping[str, Any]) -> Iterator[Row]:
    own = row["rows"][0]
    action = f"{own['sent']:,.0f} requests/s for {own['seconds']:.0f} s"
    served = f"{own['served']:,.0f}/s answered, {100 * row['share_of_best']:.0f} % of the best; "
    yield action, served + f"{own['unanswered']} neither answered nor refused", "85 %; 0"
    yield (
        "99 % of the refusals; normal again after",
        f"{own['refused_p99']:.2f} s; {own['recovered_seconds']:.1f} s",
        "; 5 s",
    )


def _cost(row: Mapping[str, Any]) -> Iterator[Row]:
    for name, quantity, goal in (
        ("added_milliseconds", "median latency", row["goals"]["median_milliseconds"]),
        ("added_cpu_milliseconds", "processor time", row["goals"]["cpu_milliseconds"]),
    ):
        cost, again = row[name]["gateway"], row[name]["again"]
        text = f"{_interval(cost)} ms; without it, against itself {_interval(again)}"
        yield f"{quantity} of a request that it adds, {row['pairs']} pairs", text, f"{goal:g} ms"


def _interval(value: Mapping[str, float]) -> str:
    return f"{value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})"


def _rollouts(row: Mapping[str, Any]) -> Iterator[Row]:
    deployments = row["deployments"]
    ended = f"{row['live']} live on all nodes, {row['undone']} undone on all"
    action = f"{len(deployments)} deployments over {row['nodes']} nodes, {row['rate']:g} requests/s"
    yield f"{action}; a broken version among them, and a node killed in its turn", ended, f"{len(deployments) - 1}, 1"
    mixed = f"{row['mixed']} answers of another version after an end"
    yield "", f"{row['failed']} of {row['requests']:,} requests failed; {mixed}", "0; 0"
    yield "one deployment", f"{row['seconds']['median']:.0f} s (at most {row['seconds']['slowest']:.0f} s)", ""


def _soak(row: Mapping[str, Any]) -> Iterator[Row]:
    events = row["events"]
    action = (
        f"{row['minutes']:g} minutes of good, bad, aborted and slow requests; {events['worker']} workers and "
        f"{events['node']} nodes killed, {events['swap']} swaps"
    )
    yield action, f"{row['failed']} of {row['requests']:,} failed; the slowest took {row['slowest']:.1f} s", "0; 5 s"
    sizes, growth = row["largest"], row["growth"]
    memory = f"nodes {sizes['nodes_mb']:,.0f} MB, {growth['nodes_mb']:.2f} times the second quarter; "
    memory += f"gateway {sizes['gateway_mb']:.0f} MB, {growth['gateway_mb']:.2f} times; logs {sizes['logs_mb']:.0f} MB"
    yield "its memory in the last quarter, and its logs", memory, f"{row['goals']['growth']:g} times"


BENCHMARKS: dict[str, Callable[[Mapping[str, Any]], Iterator[Row]]] = {
    "kills": _kills,
    "lost": _silence,
    "rollouts": _rollouts,
    "soak": _soak,
    "rotation": _rotation,
    "guests": _guests,
    "fuzz": _fuzz,
    "overrun": _overrun,
    "cost": _cost,
}
