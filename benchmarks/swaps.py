"""Deploy two versions back and forth under load: what is lost, what answers with the wrong version, what waits.

    python -m benchmarks.swaps                                  300 at 50 requests/s, 20 at saturation; 50 minutes
    python -m benchmarks.swaps --deployments 10 --saturated 2   shorter

Load is open loop from a process of its own, latency counts from the scheduled sending, an answer has 5 s. A version is
wrong where it was the default at no moment between sending and answer; the answer's own probabilities say which version
gave it, not only its header. A swap is from the registration to the end of the drain; each removes the version before,
so that each loads its workers anew. The last line is one JSON document.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import background_load, small_server
from benchmarks.open_loop import Answer
from benchmarks.sections import Sections
from benchmarks.small_server import MODEL, Expected
from serving import deploy
from serving.deployment import DeployError, Limits

RESULT, WORK = Path("benchmarks/results/swaps.json"), Path("runs/bench-swaps")
RATE, CONNECTIONS, DEADLINE = 50.0, 16, 5.0  # requests/s; at saturation; seconds
GOALS = {"failed": 0, "wrong_version": 0, "switch_seconds": 1.0, "p99_ratio": 2.0}
VERSIONS = ("1.0", "2.0")


@dataclasses.dataclass(slots=True)
class Swap:
    """One deployment; times in seconds of `time.perf_counter`."""

    version: str
    began: float = 0.0  # registration
    switching: float = 0.0
    switched: float = 0.0
    ended: float = 0.0  # of the drain
    error: str = ""
    steps: list[tuple[str, float]] = dataclasses.field(default_factory=list)  # name and begin of each


def swap(root: Path, version: str, watch: float) -> Swap:
    """Deploy one version and remove the one before."""
    found = Swap(version)
    marks = {"register": "began", "switch": "switching", "watch": "switched"}

    def say(line: str) -> None:
        if line.endswith(" ..."):
            found.steps.append((line.removesuffix(" ..."), time.perf_counter()))
            if field := marks.get(found.steps[-1][0]):
                setattr(found, field, found.steps[-1][1])

    try:
        deploy.deploy(MODEL, version, root=root, keep=False, verify=False, limits=Limits(watch=watch), say=say)
    except DeployError as error:
        found.error = str(error)
    found.ended = time.perf_counter()
    return found


def was_default(first: str, swaps: Sequence[Swap], version: str, sent: float, received: float) -> bool:
    """Return whether a version was the default at some moment between the two times."""
    default, since = first, 0.0
    for each in [each for each in swaps if not each.error]:
        if default == version and since <= received and sent <= each.switched:
            return True
        default, since = each.version, each.switching
    return default == version and since <= received


def by_step(due: np.ndarray, latencies: np.ndarray, swaps: Sequence[Swap]) -> dict[str, dict[str, float]]:
    """Return the latencies, in their unit, of what was due while each step of a deployment ran, all swaps together."""
    parts: dict[str, list[np.ndarray]] = {}
    for each in swaps:
        ends = [*(began for _, began in each.steps[1:]), each.ended]
        for (name, began), ended in zip(each.steps, ends, strict=False):
            parts.setdefault(name, []).append(latencies[(due >= began) & (due < ended)])
    pooled = {name: np.concatenate(found) for name, found in parts.items()}
    return {
        name: {
            "requests": len(part),
            "p99": round(float(np.quantile(part, 0.99)), 2),
            "slowest": round(float(part.max()), 1),
        }
        for name, part in pooled.items()
        if len(part)
    }


def figures(answers: Sequence[Answer], swaps: Sequence[Swap], expected: Expected, first: str) -> dict[str, Any]:
    """Return what came of a run; latencies in milliseconds, of answers with 200."""
    good = [each for each in answers if each.status == 200]
    told = [expected.version_of(each.number, each.body) for each in good]
    wrong = [
        each
        for each, version in zip(good, told, strict=True)
        if version is None
        or version != each.version
        or not was_default(first, swaps, version, each.sent, each.received)
    ]
    during = np.zeros(len(good), dtype=bool)
    due, received = np.array([each.due for each in good]), np.array([each.received for each in good])
    for each in swaps:
        during |= (due <= each.ended) & (received >= each.began)
    latencies = np.array([each.latency for each in good]) * 1e3
    switches = [each.switched - each.switching for each in swaps if not each.error]
    parts = {"during": latencies[during], "between": latencies[~during]}
    found: dict[str, Any] = {
        "deployments": len(swaps),
        "deployments_failed": [each.error for each in swaps if each.error],
        "requests": len(answers),
        "failed": len(answers) - len(good),
        "statuses": {str(status): count for status, count in sorted(Counter(each.status for each in answers).items())},
        "wrong_version": len(wrong),
        "answers_of": dict(Counter(filter(None, told))),
        "switch_seconds": round(max(switches, default=0.0), 4),
        "swap_seconds": round(float(np.median([each.ended - each.began for each in swaps])), 2),
        "slowest_ms": round(float(latencies.max()), 1),
    }
    for name, part in parts.items():
        quantiles = {f"p{q}": round(float(np.quantile(part, q / 100)), 2) for q in (50, 90, 99) if len(part)}
        found[name] = {"requests": len(part), **quantiles}
    if all(len(part) for part in parts.values()):
        found["p99_ratio"] = round(found["during"]["p99"] / found["between"]["p99"], 2)
    found["steps"] = by_step(due, latencies, swaps)
    return found


def measure(
    root: Path, count: int, *, rate: float, connections: int, watch: float, pause: float, console: Console
) -> dict[str, Any]:
    """Deploy `count` times beside a load (of 0 requests/s: a closed loop) and return the figures."""
    small_server.prepare(root, VERSIONS)
    pictures = small_server.images()
    expected = Expected.of(root, VERSIONS, pictures)
    swaps: list[Swap] = []
    with small_server.serving(root, [f"{MODEL}={VERSIONS[0]}"]) as known:
        url, headers = f"{known.inference}/predictions/{MODEL}", small_server.authorization(known)
        load = background_load.beside(url, pictures, headers, rate=rate, connections=connections, timeout=DEADLINE)
        with load as answers, console.status("deploying ...") as status:
            time.sleep(pause)
            for number in range(count):
                swaps.append(swap(root, VERSIONS[(number + 1) % 2], watch))
                status.update(f"{number + 1} of {count} deployments {swaps[-1].error}")
                time.sleep(pause)
    return {"rate": rate, "connections": connections, **figures(answers, swaps, expected, VERSIONS[0])}


def held(row: Mapping[str, Any]) -> bool:
    """Return whether a run meets its goals; how long requests wait counts where callers send at a rate."""
    lost = row["failed"] or row["wrong_version"] or row["deployments_failed"]
    slow = row["switch_seconds"] > GOALS["switch_seconds"] or (row["rate"] and row["p99_ratio"] > GOALS["p99_ratio"])
    return not (lost or slow)


def show(rows: dict[str, dict[str, Any]], console: Console) -> None:
    """Print a table."""
    table = Table(title="deployments under load")
    for heading in ("", *rows):
        table.add_column(heading, justify="right")
    keys = ("deployments", "requests", "failed", "wrong_version", "switch_seconds", "swap_seconds", "slowest_ms")
    for key in keys:
        table.add_row(key, *(f"{row[key]:,}" for row in rows.values()))
    for part in ("during", "between"):
        table.add_row(f"p99 {part}, ms", *(f"{row[part].get('p99', '')}" for row in rows.values()))
    console.print(table)


def main() -> int:
    """Measure, print and keep it; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.swaps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--deployments", type=int, default=300)
    parser.add_argument("--saturated", type=int, default=20, help="deployments at saturation")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two deployments")
    parser.add_argument("--watch", type=float, default=0.5, help="seconds that a deployment watches the new version")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    console, root = Console(stderr=True, markup=False, emoji=False), Path.cwd() / WORK
    common = {"watch": arguments.watch, "pause": arguments.pause, "console": console}
    sections = Sections("swaps", arguments.output, goals=GOALS)
    if arguments.deployments:
        sections.keep("open loop", measure(root, arguments.deployments, rate=RATE, connections=64, **common))
    if arguments.saturated:
        sections.keep("saturated", measure(root, arguments.saturated, rate=0.0, connections=CONNECTIONS, **common))
    rows = sections.found
    show(rows, Console(markup=False, emoji=False))
    print(json.dumps(sections.document))
    return int(not all(held(row) for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
