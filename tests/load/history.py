"""What happened in each second of a load test, and a picture of it."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

RECENT = 5.0  # seconds that a line of progress tells of


@dataclasses.dataclass(slots=True)
class Second:
    """The times of the right answers of one second in milliseconds, and how many failed besides."""

    times: list[float] = dataclasses.field(default_factory=list)
    failed: int = 0


@dataclasses.dataclass(slots=True)
class Swap:
    """A version that was deployed: seconds from the start of the load; `switched` is when it became the default."""

    version: str
    began: float
    switched: float | None = None
    ended: float = 0.0
    error: str = ""


class History:
    """A load test from its start."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.seconds: dict[int, Second] = {}
        self.swaps: list[Swap] = []
        self.answered = self.failed = 0

    @property
    def now(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._began

    def add(self, milliseconds: float, *, failed: bool) -> None:
        """Note an answer that has just come, or a failure."""
        second = self.seconds.setdefault(int(self.now), Second())
        if failed:
            second.failed += 1
            self.failed += 1
        else:
            second.times.append(milliseconds)
            self.answered += 1

    def line(self, wanted: int) -> str:
        """Return what a person who waits wants to know; `wanted` requests are to be sent, 0 where time says when."""
        now = self.now
        times = [time for second, each in self.seconds.items() if second >= now - RECENT for time in each.times]
        of = f" of {wanted:,}" if wanted else ""
        line = (
            f"{now:5.0f} s  {self.answered + self.failed:,}{of} requests, {len(times) / min(max(now, 1), RECENT):.0f}/s"
        )
        line += f", p95 {np.quantile(times, 0.95):.0f} ms" if times else ""
        return f"{line}, {self.failed} failed" + (f", {len(self.swaps)} swaps" if self.swaps else "")

    def document(self) -> dict[str, Any]:
        """Return it as JSON holds it; quantiles in milliseconds."""
        rows = []
        for second, each in sorted(self.seconds.items()):
            row = {"second": second, "answered": len(each.times), "failed": each.failed}
            if each.times:
                row["p50"], row["p95"] = np.quantile(each.times, (0.5, 0.95)).round(2).tolist()
            rows.append(row)
        return {"seconds": rows, "swaps": [dataclasses.asdict(each) for each in self.swaps]}


def draw(document: dict[str, Any], path: Path) -> None:
    """Draw latency and throughput over time, failures and swaps marked."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = document["seconds"]
    seconds = [row["second"] for row in rows]
    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(10, 6), height_ratios=(2, 1), layout="constrained")
    for name in ("p50", "p95"):
        above.plot(seconds, [row.get(name, np.nan) for row in rows], label=name, linewidth=1)
    above.set(ylabel="latency, ms", ylim=(0, None))
    below.plot(seconds, [row["answered"] for row in rows], label="answered", linewidth=1)
    below.bar(seconds, [row["failed"] for row in rows], color="red", label="failed")
    below.set(xlabel="seconds", ylabel="requests/s", ylim=(0, None))
    for number, swap in enumerate(document["swaps"]):
        for axes in (above, below):
            axes.axvspan(
                swap["began"], swap["ended"], alpha=0.15, color="red" if swap["error"] else "grey", linewidth=0
            )
            if swap["switched"] is not None:
                axes.axvline(swap["switched"], color="black", linestyle=":", label="switch" if number == 0 else None)
    for axes in (above, below):
        axes.legend(loc="upper right")
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
