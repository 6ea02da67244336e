"""Medians, ratios and targets of the serving benchmark, from its raw rows."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

SMALL, MEDIUM, LARGE = "200x200", "640x480", "4000x3000"

Run = Mapping[str, Any]


def cells(runs: Iterable[Run]) -> dict[str, dict[str, Any]]:
    """Return, by row, then body, then connections ("0": in process), the median and the range over all rounds.

    Every figure of a raw row becomes its median; `requests_per_second` keeps its lowest and highest value as `low`
    and `high` too, and `spread`, their difference by the median.
    """
    grouped: dict[str, dict[str, dict[str, list[Run]]]] = {}
    for run in runs:
        if run["kind"] != "open":
            at = grouped.setdefault(run["row"], {}).setdefault(run["body"], {})
            at.setdefault(str(run["connections"]), []).append(run)
    return {
        row: {body: {number: _median(rounds) for number, rounds in loads.items()} for body, loads in bodies.items()}
        for row, bodies in grouped.items()
    }


def _median(runs: Sequence[Run]) -> dict[str, float]:
    names = [name for name, value in runs[0].items() if isinstance(value, float) and name != "seconds"]
    figures = {name: round(statistics.median(run[name] for run in runs), 4) for name in names}
    rates = [run["requests_per_second"] for run in runs]
    low, high, middle = min(rates), max(rates), statistics.median(rates)
    figures |= {
        "low": round(low, 2),
        "high": round(high, 2),
        "spread": round((high - low) / middle, 4) if middle else 0.0,
    }
    failed = sum(run.get("refused", 0) + run.get("broken", 0) for run in runs)
    return {**figures, "failed": failed, "rounds": len(runs)}


def open_cells(runs: Iterable[Run]) -> dict[str, dict[str, float]]:
    """Return the medians of the open-loop runs of each row."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        if run["kind"] == "open":
            grouped.setdefault(run["row"], []).append(run)
    names = ("rate", "p50", "p99", "longest", "lateness")
    return {
        row: {name: round(statistics.median(run[name] for run in rounds), 3) for name in names}
        | {"failures": sum(run["failures"] for run in rounds), "behind": sum(run["behind"] for run in rounds)}
        for row, rounds in grouped.items()
    }


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """The medians of one document by row, body and connections; None if not measured."""

    cells: Mapping[str, Any]
    open: Mapping[str, Any]

    def value(self, row: str, body: str, connections: int, name: str = "requests_per_second") -> float | None:
        """Return one figure."""
        value = self.cells.get(row, {}).get(body, {}).get(str(connections), {}).get(name)
        return None if value is None else float(value)

    def ratio(self, row: str, other: str, body: str, connections: int) -> float | None:
        """Return the rate of `row` relative to that of `other`."""
        above, below = self.value(row, body, connections), self.value(other, body, connections)
        return above / below if above is not None and below else None

    def overhead(self, row: str, ceiling: str, noop: str) -> float | None:
        """Return the time a small image takes above the ceiling in process, by that of the no-op handler."""
        served, inside, nothing = self.value(row, SMALL, 64), self.value(ceiling, SMALL, 0), self.value(noop, SMALL, 64)
        return (1 / served - 1 / inside) * nothing if served and inside and nothing else None

    def added_latency(self, row: str, ceiling: str) -> float | None:
        """Return the median latency of one connection minus the time of one image in process, in milliseconds."""
        served, inside = self.value(row, SMALL, 1, "p50"), self.value(ceiling, SMALL, 0, "single_ms")
        return served - inside if served is not None and inside is not None else None

    def tail(self, row: str) -> float | None:
        """Return the 99th percentile by the median of the open loop."""
        figures = self.open.get(row)
        return figures["p99"] / figures["p50"] if figures and figures["p50"] and not figures["failures"] else None


def _against(row: str, precision: str) -> Callable[[Figures], float | None]:
    return lambda figures: figures.ratio(f"ours-{precision}", row, SMALL, 64)


# name, unit, whether higher is better, goal, source of the value
TARGETS: tuple[tuple[str, str, bool, float, Callable[[Figures], float | None]], ...] = (
    ("in process, bf16, 200x200", "images/s", True, 460, lambda f: f.value("in-process-bf16", SMALL, 0)),
    ("bf16, 64 connections, 200x200", "requests/s", True, 430, lambda f: f.value("ours-bf16", SMALL, 64)),
    ("bf16, 64 connections, 640x480", "requests/s", True, 330, lambda f: f.value("ours-bf16", MEDIUM, 64)),
    ("bf16, 64 connections, 4000x3000", "requests/s", True, 90, lambda f: f.value("ours-bf16", LARGE, 64)),
    ("int8, 64 connections, 200x200", "requests/s", True, 620, lambda f: f.value("ours-int8", SMALL, 64)),
    ("int8, 64 connections, 640x480", "requests/s", True, 450, lambda f: f.value("ours-int8", MEDIUM, 64)),
    (
        "serving overhead relative to a no-op handler (bf16, 200x200)",
        *("times", False, 1.3),
        lambda f: f.overhead("ours-bf16", "in-process-bf16", "noop"),
    ),
    ("LitServe, our parts, 16 (bf16)", "times", True, 2, lambda f: f.ratio("ours-bf16", "litserve-ours", SMALL, 16)),
    ("LitServe, our parts, 64 (bf16)", "times", True, 1.25, lambda f: f.ratio("ours-bf16", "litserve-ours", SMALL, 64)),
    ("Triton, our parts, 16 (bf16)", "times", True, 1.2, lambda f: f.ratio("ours-bf16", "triton-ours", SMALL, 16)),
    ("Triton, our parts, 64 (bf16)", "times", True, 1.2, lambda f: f.ratio("ours-bf16", "triton-ours", SMALL, 64)),
    *(
        (f"{title}, 64 ({precision})", "times", True, 9, _against(row, precision))
        for title, row in (
            ("stock TorchServe at its best", "stock-best"),
            ("LitServe as documented", "litserve-documented"),
            ("BentoML as documented", "bentoml-documented"),
        )
        for precision in ("bf16", "int8")
    ),
    (
        "one connection, median above in process (bf16, 200x200)",
        *("ms", False, 3.0),
        lambda f: f.added_latency("ours-bf16", "in-process-bf16"),
    ),
    ("open loop at 70 %, p99 / median (bf16, 200x200)", "times", False, 3.0, lambda f: f.tail("ours-bf16")),
)


def targets(figures: Figures, *, quiet: bool = True) -> list[dict[str, Any]]:
    """Return each target with the measured value, and whether it is met.

    `met` is None for a value that was not measured, and for every value if other programs were busy (not `quiet`).
    """
    rows = []
    for name, unit, higher, goal, measure in TARGETS:
        value = measure(figures)
        # Negative overhead: machine load differed between the two runs, so the value means nothing.
        unknown = value is None or value < 0 or not quiet
        met = None if value is None or unknown else (value >= goal if higher else value <= goal)
        rounded = None if value is None else round(value, 3)
        rows.append({"name": name, "unit": unit, "goal": goal, "at_least": higher, "value": rounded, "met": met})
    return rows


def rates(loads: dict[str, Any], connections: Sequence[int]) -> str:
    """Return the medians of one row and body: by connections, or the one in process."""
    if "0" in loads:
        return f"{loads['0']['requests_per_second']:,.0f}"
    values = [loads.get(str(number), {}).get("requests_per_second") for number in connections]
    return " / ".join("-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}" for value in values)


WORDS = ("target", "goal", "measured", "met")


def words(target: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Return the cells of one of `targets` in a table."""
    goal = f"{'at least' if target['at_least'] else 'at most'} {target['goal']:g} {target['unit']}"
    value = "not measured" if target["value"] is None else f"{target['value']:,.4g} {target['unit']}"
    return target["name"], goal, value, {True: "yes", False: "no", None: ""}[target["met"]]
