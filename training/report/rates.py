"""The picture of networks in their precisions: top-1 against speed, a colour for each network, a marker for each."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import matplotlib as mpl
from matplotlib.figure import Figure

MARKERS = {"fp32": "o", "bf16": "s", "int8": "^"}


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """A network in a precision: images or requests a second, and `value`, `low` and `high` of top-1 in percent."""

    network: str
    precision: str
    rate: float
    top_1: Mapping[str, float]


def draw(points: Sequence[Point], target: Path | IO[bytes], rate: str, top_1: str) -> None:
    """Write an SVG picture with these labels of its axes. The same points, the same bytes."""
    with mpl.rc_context({"svg.hashsalt": "sightline", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7.5, 4.2))
        axis = figure.subplots()
        names = dict.fromkeys(point.network for point in points)
        colours = dict(zip(names, itertools.cycle(mpl.color_sequences["tab10"]), strict=False))
        for point in points:
            value, low, high = (point.top_1[name] for name in ("value", "low", "high"))
            bar, colour = [[value - low], [high - value]], colours[point.network]
            marker = MARKERS[point.precision]
            axis.errorbar(point.rate, value, yerr=bar, marker=marker, color=colour, elinewidth=0.5, alpha=0.8)
        for name, colour in colours.items():
            axis.plot([], [], color=colour, label=name)
        for precision, marker in MARKERS.items():
            axis.plot([], [], marker=marker, color="black", linestyle="", label=precision)
        axis.set_xlabel(rate)
        axis.set_ylabel(top_1)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(target, format="svg", bbox_inches="tight", metadata={"Date": None})
