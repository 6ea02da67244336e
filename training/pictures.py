"""Pictures of a test set's answers: confusion matrix, reliability diagram, contact sheet and others, each one PNG.

Figures are drawn by matplotlib's object interface on the Agg canvas: no window system, no global state.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix as count_confusions

from handlers import atomic
from training import scores

NUMBERED = 32  # classes: with more, a cell has no room for its number
PAIRS = 30  # confusions that are listed where cells have no numbers
SHEET = 24  # images on a contact sheet
COLUMNS = 6
AS_WRITTEN: dict[str, Any] = {"parse_math": False}  # a class name with two "$" is no formula
RIGHT, WRONG, DIM = "#2a6fb0", "#c0392b", "#8a8a8a"


def save(figure: Figure, path: Path | BinaryIO, *, dpi: int = 120) -> None:
    """Write a figure as PNG, without the date and version that would make equal pictures unequal files."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=dpi, bbox_inches="tight", metadata={"Software": None})


def confusion_matrix(labels: npt.NDArray[Any], answers: npt.NDArray[Any], classes: Sequence[str], path: Path) -> None:
    """Draw how often each true class (row) got each answer (column), as a share of the row.

    `labels` and `answers` are int (N,) in [0, K). Classes that are neither true nor answered are left out. Up to 32
    classes every cell carries its count; with more, the side lists the most frequent confusions instead.
    """
    shown = np.union1d(labels, answers)
    counts = count_confusions(labels, answers, labels=shown)
    names = [classes[k] for k in shown]
    size = len(names)
    numbered = size <= NUMBERED
    side = max(5.0, 0.45 * size) if numbered else min(22.0, 0.16 * size + 4)
    # Room for the longest name, at both axes; the list is to the right of the matrix.
    font = 9.0 if numbered else max(2.6, min(8.0, 56 * side / size))
    margin = 0.5 + max(map(len, names)) * font * 0.0085
    figure = Figure(figsize=(side + margin + (0.8 if numbered else 5.2), side + margin + 0.5), layout="constrained")
    axes = figure.subplots(
        1, 1 if numbered else 2, width_ratios=None if numbered else [side + margin, 4.6], squeeze=False
    )[0]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # The root lets a single mistake in a hundred be seen beside a full diagonal.
    axes[0].imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes[0].set_xticks(range(size), names, rotation=90, fontsize=font, **AS_WRITTEN)
    axes[0].set_yticks(range(size), names, fontsize=font, **AS_WRITTEN)
    axes[0].tick_params(length=0 if not numbered else 2, pad=1)
    axes[0].set_xlabel("answer")
    axes[0].set_ylabel("true class")
    right = int(np.trace(counts))
    axes[0].set_title(f"{right:,} of {len(labels):,} right ({right / len(labels):.2%})")
    if numbered:
        _numbers(axes[0], counts, shares)
    else:
        axes[0].set_xticks(np.arange(size + 1) - 0.5, minor=True)
        axes[0].set_yticks(np.arange(size + 1) - 0.5, minor=True)
        axes[0].grid(which="minor", color="#e8e8e8", linewidth=0.3)
        axes[0].tick_params(which="minor", length=0)
        _pairs(axes[1], counts, names)
    save(figure, path, dpi=120 if size < 150 else 160)


def _numbers(axes: Axes, counts: npt.NDArray[Any], shares: npt.NDArray[Any]) -> None:
    """Write each cell's count into it."""
    for row, column in zip(*np.nonzero(counts), strict=True):
        ink = "white" if shares[row, column] > 0.4 else WRONG if row != column else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=ink)


def _pairs(axes: Axes, counts: npt.NDArray[Any], names: Sequence[str]) -> None:
    """List the most frequent confusions, most frequent first."""
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    rows, columns = np.unravel_index(order[wrong.ravel()[order] > 0], wrong.shape)
    true = counts.sum(axis=1)
    lines = [
        f"{wrong[row, column]:>4} of {true[row]:<4} {names[row]} → {names[column]}"
        for row, column in zip(rows, columns, strict=True)
    ]
    axes.axis("off")
    axes.set_title("most frequent confusions (true → answer)", fontsize=10, loc="left")
    text = "\n".join(lines) or "none"
    axes.text(0, 0.995, text, va="top", fontsize=9, family="monospace", linespacing=1.5, **AS_WRITTEN)


def reliability(confidences: npt.NDArray[Any], right: npt.NDArray[np.bool_], path: Path | BinaryIO) -> None:
    """Draw accuracy against confidence by bin, with Wilson's intervals, over a histogram of the confidences.

    `confidences` are (N,) in [0, 1], `right` bool (N,). The bins are of equal width (Niculescu-Mizil and Caruana 2005,
    "Predicting good probabilities with supervised learning"), those of the error in the title of equal mass.
    """
    figure = Figure(figsize=(6, 7), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    place = scores.equal_widths(confidences)
    width = 1 / scores.BINS
    for k in np.unique(place):
        inside = place == k
        accuracy = scores.proportion(int(right[inside].sum()), int(inside.sum()))
        assert accuracy is not None
        confidence = float(confidences[inside].mean())
        top.bar((k + 0.5) * width, accuracy.value, width * 0.92, color=RIGHT, alpha=0.35)
        spread = [[accuracy.value - accuracy.low], [accuracy.high - accuracy.value]]
        top.errorbar(confidence, accuracy.value, yerr=spread, fmt="o", color=RIGHT, markersize=4, capsize=2)
    top.plot([0, 1], [0, 1], color=DIM, linestyle="--", linewidth=1, label="perfectly calibrated")
    top.set_ylim(0, 1.02)
    top.set_ylabel("accuracy")
    top.legend(loc="upper left", frameon=False)
    error = scores.calibration_error(confidences, right)
    top.set_title(f"calibration error {error:.4f} over {len(right):,} images")
    bottom.hist(confidences, bins=np.linspace(0, 1, scores.BINS + 1).tolist(), color=RIGHT, alpha=0.7)
    bottom.set_yscale("log")
    bottom.set_xlim(0, 1)
    bottom.set_xlabel("confidence (largest probability)")
    bottom.set_ylabel("images")
    save(figure, path)


def heat_map(
    shares: npt.NDArray[Any], rows: Sequence[str], columns: Sequence[str], title: str, path: Path | BinaryIO
) -> None:
    """Draw shares (R, C) in [0, 1] as a table whose cells are the darker the larger they are."""
    figure = Figure(figsize=(1.6 + 0.75 * len(columns), 1.0 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=10)
    for (row, column), share in np.ndenumerate(shares):
        ink = "white" if share > 0.6 else "black"
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=9, color=ink)
    save(figure, path)


def worst(probabilities: npt.NDArray[Any], labels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], str]:
    """Return the rows (n,) of the most confident mistakes, at most `SHEET`, surest first, and a title.

    Where there is no mistake, the least confident right answers are returned instead: the next ones to go wrong.
    """
    answers, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(answers != labels)
    if len(wrong):
        rows = wrong[np.argsort(-confidences[wrong], kind="stable")][:SHEET]
        return rows, f"most confident mistakes: {len(rows)} of {len(wrong):,} ({len(labels):,} test images)"
    rows = np.argsort(confidences, kind="stable")[:SHEET]
    return rows, f"no mistake on {len(labels):,} test images; the least confident right answers"


def contact_sheet(
    images: Sequence[npt.NDArray[np.uint8]],
    true: Sequence[str],
    answered: Sequence[str],
    probabilities: Sequence[float],
    title: str,
    path: Path,
) -> None:
    """Draw images with their true class, the answer and its probability.

    `images` are uint8 (C, H, W) with one or three channels, as many as there are names and probabilities in [0, 1].
    """
    figure, cells = _sheet(len(images), height=2.55, title=0.6)
    figure.suptitle(title, fontsize=11)
    for cell, image, name, answer, probability in zip(cells, images, true, answered, probabilities, strict=False):
        _show(cell, image)
        ink = RIGHT if name == answer else WRONG
        label = f"true {_short(name)}\n{_short(answer)} {probability:.1%}"
        cell.set_title(label, fontsize=8, color=ink, linespacing=1.3, **AS_WRITTEN)
    save(figure, path)


def examples(images: npt.NDArray[np.uint8], labels: Sequence[str], path: Path) -> None:
    """Draw images, uint8 (N, C, H, W) with one or three channels, each under its label."""
    figure, cells = _sheet(len(images), height=2.25)
    for cell, image, label in zip(cells, images, labels, strict=False):
        _show(cell, image)
        cell.set_title(_short(label), fontsize=8, **AS_WRITTEN)
    save(figure, path)


def _sheet(count: int, height: float, title: float = 0.0) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with a grid of empty cells, `height` inches each, below room of `title` inches."""
    rows = max(1, -(-count // COLUMNS))
    figure = Figure(figsize=(COLUMNS * 2.0, rows * height + title), layout="constrained")
    cells: list[Axes] = figure.subplots(rows, COLUMNS, squeeze=False).ravel().tolist()
    for cell in cells:
        cell.axis("off")
    return figure, cells


def _show(cell: Axes, image: npt.NDArray[np.uint8]) -> None:
    if image.shape[0] == 1:
        cell.imshow(image[0], cmap="gray", vmin=0, vmax=255)
    else:
        cell.imshow(np.moveaxis(image, 0, -1))


def _short(name: str, limit: int = 20) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def learning_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
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
