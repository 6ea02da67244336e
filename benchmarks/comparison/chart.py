"""The chart of the serving benchmark: requests a second at the highest number of connections, a panel for each body.

python -m benchmarks.comparison.chart [RESULT.json]    draw it again, beside the result
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

RESULT = Path("benchmarks/results/serving.json")
OURS, PEERS, BOUND = "#2a6f97", "#adb5bd", "#e9c46a"


def draw(document: dict[str, Any], path: Path) -> None:
    """Write the chart of a result; bars are medians, lines the range of the rounds. The same result, the same bytes."""
    rows = [row for row in document["rows"] if row["reason"] is None and row["chart"]][::-1]
    bodies, connections = document["bodies"], str(max(document["connections"]))
    with mpl.rc_context({"svg.hashsalt": "sightline", "svg.fonttype": "none", "font.size": 9}):
        size = (3.4 * len(bodies) + 1.6, 0.9 + 0.28 * len(rows))
        figure, axes = plt.subplots(1, len(bodies), figsize=size, sharey=True, squeeze=False)
        for axis, body in zip(axes[0], bodies, strict=True):
            _bars(axis, rows, [document["cells"].get(row["name"], {}).get(body, {}) for row in rows], connections)
            axis.set_title(f"{body}, {bodies[body]['kilobytes']:,.0f} KB")
            axis.set_xlabel("requests/s")
            axis.margins(x=0.18)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0][0].set_yticks(range(len(rows)), [row["title"] for row in rows])
        network, cores = document["network"]["name"], document["machine"]["cores"]
        figure.suptitle(f"{connections} connections, {cores} cores, {network}")
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)


def _bars(axis: Any, rows: Sequence[dict[str, Any]], loads: Sequence[dict[str, Any]], connections: str) -> None:
    """Draw the bar of each row at a number of connections, or in process."""
    for place, (row, load) in enumerate(zip(rows, loads, strict=True)):
        in_process = row["kind"] == "in process"
        cell = load.get("0" if in_process else connections)
        if cell is None:
            continue
        value = cell["requests_per_second"]
        axis.barh(place, value, color=OURS if row["ours"] else BOUND if in_process else PEERS)
        axis.plot([cell["low"], cell["high"]], [place, place], color="black", linewidth=1)
        axis.annotate(f"{value:,.0f}", (cell["high"], place), (3, 0), textcoords="offset points", va="center")


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULT
    draw(json.loads(source.read_text()), source.with_suffix(".svg"))
