"""The confusion matrix of a report, and the pictures behind its cells."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from training.pages.thumbnails import Thumbnails
from training.predictions import Predictions

CLASSES = 40  # rows of the matrix
PAIRS = 30  # in the list of confusions
WRONG, OF_WRONG, OF_RIGHT = 400, 12, 3  # pictures of all wrong cells, of one of them, and of a right one


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """An image behind a cell: its thumbnail, its path and the probability of the answer."""

    url: str
    path: str
    probability: float


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """Images of one true class with one answer; `share` is theirs of the class, in [0, 1].

    `pictures` are some of them: the surest mistakes, or the least sure right answers.
    """

    row: int
    column: int
    count: int
    share: float
    pictures: list[Picture]

    @property
    def anchor(self) -> str:
        """Return the name of its place in the page; "" without pictures."""
        return f"cell-{self.row}-{self.column}" if self.pictures else ""

    @property
    def is_right(self) -> bool:
        """Return whether the answer is the true class."""
        return self.row == self.column


@dataclasses.dataclass(frozen=True, slots=True)
class Confusion:
    """The matrix of the classes `shown`, by true class and answer, and the most frequent confusions of all classes.

    `cells` holds the cells with pictures, also those outside the matrix.
    """

    shown: list[int]
    rows: list[list[Cell | None]]
    pairs: list[Cell]
    cells: list[Cell]


def confusion(predictions: Predictions, classes: int, thumbnails: Thumbnails) -> Confusion:
    """Return the matrix of the answers to a test set with `classes` classes."""
    answers = predictions.probabilities.argmax(axis=1).astype(np.int64)
    codes = predictions.labels * classes + answers
    counts = np.bincount(codes, minlength=classes**2).reshape(classes, classes)
    shown = _shown(counts)
    cells = {
        (row, column): _cell(row, column, counts, _pictures(codes, row, column, limit, predictions, thumbnails))
        for row, column, limit in _opened(counts, shown)
    }
    pairs = [cells.get(pair) or _cell(*pair, counts, []) for pair in _confused(counts)[:PAIRS]]
    rows = [[_entry(row, column, counts, cells) for column in shown] for row in shown]
    return Confusion(shown, rows, pairs, [cell for cell in cells.values() if cell.pictures])


def _entry(row: int, column: int, counts: npt.NDArray[np.int64], cells: dict[tuple[int, int], Cell]) -> Cell | None:
    if not counts[row, column]:
        return None
    return cells.get((row, column)) or _cell(row, column, counts, [])


def _cell(row: int, column: int, counts: npt.NDArray[np.int64], pictures: list[Picture]) -> Cell:
    count = int(counts[row, column])
    return Cell(row, column, count, count / int(counts[row].sum()), pictures)


def _shown(counts: npt.NDArray[np.int64]) -> list[int]:
    """Return the classes of the matrix: all that occur, or those with the most mistakes, in their own order."""
    occurring = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    if len(occurring) <= CLASSES:
        return [int(number) for number in occurring]
    mistakes = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    return sorted(np.argsort(-mistakes, kind="stable")[:CLASSES].tolist())


def _confused(counts: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return pairs of a true class and a wrong answer, the most frequent first; no more than can have pictures."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    filled = np.flatnonzero(wrong)
    order = filled[np.argsort(-wrong.ravel()[filled], kind="stable")][: max(WRONG, PAIRS)]
    return [(int(code) // len(counts), int(code) % len(counts)) for code in order]


def _opened(counts: npt.NDArray[np.int64], shown: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield the cells to open, each with a number of pictures."""
    budget = WRONG
    for row, column in _confused(counts):
        if limit := min(int(counts[row, column]), OF_WRONG, budget):
            budget -= limit
            yield row, column, limit
    yield from ((number, number, OF_RIGHT) for number in shown if counts[number, number])


def _pictures(
    codes: npt.NDArray[np.int64], row: int, column: int, limit: int, predictions: Predictions, thumbnails: Thumbnails
) -> list[Picture]:
    images = np.flatnonzero(codes == row * predictions.probabilities.shape[1] + column)
    sureness = predictions.probabilities[images, column]
    order = np.argsort(sureness if row == column else -sureness, kind="stable")[:limit]
    rows = zip(images[order].tolist(), sureness[order].tolist(), strict=True)
    return [Picture(thumbnails.url(image), str(predictions.paths[image]), sure) for image, sure in rows]
