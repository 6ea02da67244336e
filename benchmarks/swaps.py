"""Deploy two versions in turns under load: which requests fail, get the wrong version, or wait.

    python -m benchmarks.swaps                                  300 at 50 requests/s, 20 at saturation; 50 minutes
    python -m benchmarks.swaps --deployments 10 --saturated 2   shorter

An open loop in a second process sends the load; latency counts from the scheduled sending, and an answer has 5 s. A
version is wrong if it was never the default between sending and answer; not only the header but the probabilities of
the answer show which version gave it. A swap lasts from the registration to the end of the drain and removes the
version before, so that each swap loads new workers. The last line is one JSON document.
"""

import dataclasses
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.harness import console, small_server
from benchmarks.harness.small_server import MODEL, Expected
from benchmarks.result import Sections
from benchmarks.traffic import background_load
from benchmarks.traffic.open_loop import TimedAnswer, fill_failures, quantile
from serving import deploy
from serving.lifecycle.deployment import DeployError, DeployLimits

RESULT, WORK = Path("benchmarks/results/swaps.json"), Path("runs/bench-swaps")
RATE, CONNECTIONS, DEADLINE = 50.0, 16, 5.0  # requests/s; at saturation; seconds
GOALS = {"failed": 0, "wrong_version": 0, "switch_seconds": 1.0, "p99_ratio": 2.0}
VERSIONS = ("1.0", "2.0")
MARKS = {"register": "registered", "switch": "switching", "watch": "switched"}  # step -> the time that its start is


@dataclasses.dataclass(slots=True)
class Swap:
    """One deployment; times in seconds of `time.perf_counter`."""

    version: str
    registered: float = 0.0  # start of the registration
    switching: float = 0.0
    switched: float = 0.0
    ended: float = 0.0  # end of the drain
    error: str = ""
    steps: list[tuple[str, float]] = dataclasses.field(default_factory=list)  # name and start of each

    def log(self, line: str) -> None:
        """Record the start of a step, which the deployment reports as "<step> ..."."""
        if not line.endswith(" ..."):
            return
        name, now = line.removesuffix(" ..."), time.perf_counter()
        self.steps.append((name, now))
        if name in MARKS:
            setattr(self, MARKS[name], now)


def swap(root: Path, version: str, watch: float) -> Swap:
    """Deploy one version and remove the one before."""
    swap = Swap(version)
    try:
        deploy.deploy(
            MODEL, version, root=root, keep=False, verify=False, limits=DeployLimits(watch=watch), log=swap.log
        )
    except DeployError as error:
        swap.error = str(error)
    swap.ended = time.perf_counter()
    return swap


def was_default(first: str, swaps: Sequence[Swap], version: str, sent: float, received: float) -> bool:
    """Return whether a version was the default at some moment between the two times."""
    default, since = first, 0.0
    for swap in swaps:
        if swap.error:
            continue
        if default == version and since <= received and sent <= swap.switched:
            return True
        default, since = swap.version, swap.switching
    return default == version and since <= received


def by_step(due: np.ndarray, latencies: np.ndarray, swaps: Sequence[Swap]) -> dict[str, dict[str, float]]:
    """Return the latencies of requests that were due during each step of a deployment, pooled over all swaps."""
    parts: dict[str, list[np.ndarray]] = {}
    for swap in swaps:
        ends = [*(start for _, start in swap.steps[1:]), swap.ended]
        for (name, start), end in zip(swap.steps, ends, strict=False):
            parts.setdefault(name, []).append(latencies[(due >= start) & (due < end)])
    pooled = {name: np.concatenate(part) for name, part in parts.items()}
    return {
        name: {
            "requests": len(part),
            "p99": round(quantile(part, 0.99), 2),
            "slowest": round(float(part.max()), 1),
        }
        for name, part in pooled.items()
        if len(part)
    }


def figures(answers: Sequence[TimedAnswer], swaps: Sequence[Swap], expected: Expected, first: str) -> dict[str, Any]:
    """Return the figures of a run; latencies in milliseconds, in which a failure counts as the longest."""
    good = [answer for answer in answers if answer.status == 200]
    versions = [expected.version_of(answer.number, answer.body) for answer in good]
    right = [
        version == answer.version and was_default(first, swaps, version, answer.sent, answer.received)
        for answer, version in zip(good, versions, strict=True)
    ]
    due = np.array([answer.due for answer in answers])
    latencies = fill_failures([answer.latency if answer.status == 200 else np.nan for answer in answers]) * 1e3
    switches = [swap.switched - swap.switching for swap in swaps if not swap.error]
    return {
        "deployments": len(swaps),
        "deployments_failed": [swap.error for swap in swaps if swap.error],
        "requests": len(answers),
        "failed": len(answers) - len(good),
        "statuses": {str(status): count for status, count in sorted(Counter(a.status for a in answers).items())},
        "wrong_version": right.count(False),
        "answers_of": dict(Counter(filter(None, versions))),
        "switch_seconds": round(max(switches, default=0.0), 4),
        "swap_seconds": round(float(np.median([swap.ended - swap.registered for swap in swaps])), 2),
        "slowest_ms": round(float(latencies.max()), 1),
        **_during_and_between(answers, latencies, swaps),
        "steps": by_step(due, latencies, swaps),
    }


def _during_and_between(answers: Sequence[TimedAnswer], latencies: np.ndarray, swaps: Sequence[Swap]) -> dict[str, Any]:
    """Return the quantiles of the latencies during swaps and between them, and the ratio of their 99th percentiles."""
    during = np.zeros(len(answers), dtype=bool)
    due, received = np.array([answer.due for answer in answers]), np.array([answer.received for answer in answers])
    for swap in swaps:
        during |= (due <= swap.ended) & (received >= swap.registered)
    parts: dict[str, Any] = {}
    for name, part in (("during", latencies[during]), ("between", latencies[~during])):
        quantiles = {f"p{q}": round(quantile(part, q / 100), 2) for q in (50, 90, 99) if len(part)}
        parts[name] = {"requests": len(part), **quantiles}
    if all(part.get("p99") for part in parts.values()):  # 0 where every request failed
        parts["p99_ratio"] = round(parts["during"]["p99"] / parts["between"]["p99"], 2)
    return parts


def measure(
    root: Path, count: int, *, rate: float, connections: int, watch: float, pause: float, progress: Console
) -> dict[str, Any]:
    """Deploy `count` times under load (a closed loop if `rate` is 0) and return the figures."""
    small_server.prepare(root, VERSIONS)
    images = small_server.images()
    expected = Expected.of(root, VERSIONS, images)
    swaps: list[Swap] = []
    with small_server.serving(root, [f"{MODEL}={VERSIONS[0]}"]) as state:
        url, headers = small_server.address(state)
        load = background_load.beside(url, images, headers, rate=rate, connections=connections, timeout=DEADLINE)
        with load as answers, progress.status("deploying ...") as status:
            time.sleep(pause)
            for number in range(count):
                swaps.append(swap(root, VERSIONS[(number + 1) % 2], watch))
                status.update(f"{number + 1} of {count} deployments {swaps[-1].error}")
                time.sleep(pause)
    return {"rate": rate, "connections": connections, **figures(answers, swaps, expected, VERSIONS[0])}


def goals_met(row: Mapping[str, Any]) -> bool:
    """Return whether a run meets its goals; that of latency applies where callers send at a rate."""
    failed = row["failed"] or row["wrong_version"] or row["deployments_failed"]
    ratio = row.get("p99_ratio", math.inf)
    slow = row["switch_seconds"] > GOALS["switch_seconds"] or (row["rate"] and ratio > GOALS["p99_ratio"])
    return not (failed or slow)


def show(sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the table."""
    keys = ("deployments", "requests", "failed", "wrong_version", "switch_seconds", "swap_seconds", "slowest_ms")
    rows = [(key, *(f"{row[key]:,}" for row in sections.values())) for key in keys]
    parts = ("during", "between")
    rows += [(f"p99 {part}, ms", *(str(row[part].get("p99", "")) for row in sections.values())) for part in parts]
    console.print_table("deployments under load", ("", *sections), rows)


def main() -> int:
    """Measure, print and write the result; 1 where a goal is missed."""
    parser = console.parser("swaps", __doc__)
    parser.add_argument("--deployments", type=int, default=300)
    parser.add_argument("--saturated", type=int, default=20, help="deployments at saturation")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two deployments")
    parser.add_argument(
        "--watch", type=float, default=0.5, help="seconds for which a deployment watches the new version"
    )
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    root = Path.cwd() / WORK
    common = {"watch": options.watch, "pause": options.pause, "progress": console.progress()}
    sections = Sections("swaps", options.output, goals=GOALS)
    if options.deployments:
        sections.write("open loop", measure(root, options.deployments, rate=RATE, connections=64, **common))
    if options.saturated:
        sections.write("saturated", measure(root, options.saturated, rate=0.0, connections=CONNECTIONS, **common))
    show(sections.figures)
    return sections.publish(failed=not all(map(goals_met, sections.figures.values())))


if __name__ == "__main__":
    sys.exit(main())
