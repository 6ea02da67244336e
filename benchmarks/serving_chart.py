"""The chart of the serving benchmark: requests a second at the most connections, a panel for each body.

python -m benchmarks.serving_chart [RESULT.json]    write it anew, beside the result
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

RESULT = Path("benchmarks/results/serving.json")
OURS, PEERS, BOUND = "#2a6f97", "#adb5bd", "#e9c46a"


def draw(document: dict[str, Any], path: Path) -> None:
    """Write the chart of a result; bars are medians, lines the range of the rounds. The same result, the same bytes."""
    rows = [row for row in document["rows"] if row["reason"] is None and row["chart"]]
    bodies = list(document["bodies"])
    connections = str(max(document["connections"]))
    with mpl.rc_context({"svg.hashsalt": "sightline", "svg.fonttype": "none", "font.size": 9}):
        height = 0.9 + 0.28 * len(rows)
        figure, axes = plt.subplots(
            1, len(bodies), figsize=(3.4 * len(bodies) + 1.6, height), sharey=True, squeeze=False
        )
        for axis, body in zip(axes[0], bodies, strict=True):
            for place, row in enumerate(reversed(rows)):
                loads = document["cells"].get(row["name"], {}).get(body, {})
                cell = loads.get("0" if row["kind"] == "in process" else connections)
                if cell is None:
                    continue
                value = cell["requests_per_second"]
                axis.barh(place, value, color=OURS if row["ours"] else BOUND if row["kind"] == "in process" else PEERS)
                axis.plot([cell["low"], cell["high"]], [place, place], color="black", linewidth=1)
                axis.annotate(f"{value:,.0f}", (cell["high"], place), (3, 0), textcoords="offset points", va="center")
            axis.set_title(f"{body}, {document['bodies'][body]['kilobytes']:,.0f} KB")
            axis.set_xlabel("requests/s")
            axis.margins(x=0.18)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0][0].set_yticks(range(len(rows)), [row["title"] for row in reversed(rows)])
        figure.suptitle(
            f"{connections} connections, {document['machine']['cores']} cores, {document['network']['name']}"
        )
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULT
    draw(json.loads(source.read_text()), source.with_suffix(".svg"))
