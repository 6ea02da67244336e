"""The learning curves of a run as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from handlers import atomic


def draw(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write a PNG of loss and accuracy by epoch, for training and validation.

    `rows` are those of metrics.csv. The figure is made without pyplot, which keeps global state.
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [row["epoch"] for row in rows]
    for place, (quantity, factor, unit) in enumerate((("loss", 1.0, ""), ("accuracy", 100.0, " (%)")), start=1):
        axes = figure.add_subplot(1, 2, place)
        for side in ("train", "validation"):
            axes.plot(epochs, [factor * row[f"{side}_{quantity}"] for row in rows], marker=".", label=side)
        axes.set(xlabel="epoch", ylabel=f"{quantity}{unit}")
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic.replacing(path) as part:
        figure.savefig(part, dpi=120, format="png")
