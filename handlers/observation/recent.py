"""The newest images of one worker, a row each, in a ring in a file: this is how embeddings leave a worker.

A row has the columns `COLUMNS`, then the embedding in the directions of the archive's reference, if it has one.
"""

import dataclasses
import logging
import math
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from handlers.observation import file
from handlers.observation.file import NumberFile
from handlers.observation.slot import Slot

SUFFIX = ".recent"
ROWS = 1024


class Row(NamedTuple):
    """One answered image; NaN is a number that is unknown.

    `time` is in seconds since 1970, `place` that of the first class among the classes, `pixels` of the encoded image.
    """

    time: float
    place: float
    confidence: float
    familiarity: float
    brightness: float
    contrast: float
    sharpness: float
    pixels: float
    embedding: Sequence[float] = ()


COLUMNS = Row._fields[:-1]


class Recent:
    """The ring of this process.

    Args:
        width: of an embedding, 0 without one.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, slot: Slot, name: str, version: str, width: int = 0) -> None:
        self.width = width
        about = {"model": name, "version": version, "columns": COLUMNS, "width": width, "rows": ROWS}
        self._length = len(COLUMNS) + width + 2  # with the row's number before and after it
        self._file = NumberFile(slot.stem.with_suffix(SUFFIX), about, ROWS * self._length)
        # From its first row on, a worker continues the numbers of the one before.
        self._next = int(max(self._file.numbers()[:: self._length])) + 1
        self._failed = False

    def add(self, rows: Iterable[Row]) -> None:
        """Write rows over the oldest ones. A failure is logged once."""
        numbers = array("d")
        for row in list(rows)[-ROWS:]:
            numbers.append(self._next)
            numbers.extend(row[:-1])
            numbers.extend(row.embedding if self.width else ())
            numbers.append(self._next)
            self._next += 1
        count = len(numbers) // self._length
        first = (self._next - count) % ROWS
        until_end = (ROWS - first) * self._length
        try:
            self._file.write(numbers[:until_end], first * self._length)
            if len(numbers) > until_end:
                self._file.write(numbers[until_end:])
        except OSError as error:
            if not self._failed:
                logging.getLogger(__name__).warning("recent images are not written at present: %s", error)
            self._failed = True


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """The rows of one worker, oldest first.

    `numbers` (N,) count its images from 1 on; `columns` is float64 (N, len(COLUMNS)), `embeddings` float64 (N, width).
    """

    model: str
    version: str
    numbers: npt.NDArray[np.int64]
    columns: npt.NDArray[np.float64]
    embeddings: npt.NDArray[np.float64]

    @classmethod
    def read(cls, path: Path) -> "Copy":
        """Return the rows of a file, without those that are being written.

        Raises:
            OSError, ValueError, KeyError, TypeError: there is no such file, or it is not complete or damaged.
        """
        about, numbers = file.read(path)
        if tuple(about["columns"]) != COLUMNS:
            raise ValueError(f"{path} has other columns, of another release")
        length = len(COLUMNS) + about["width"] + 2
        rows = np.array(numbers).reshape(-1, length)
        rows = rows[(rows[:, 0] > 0) & (rows[:, 0] == rows[:, -1])]
        rows = rows[rows[:, 0].argsort()]
        end = 1 + len(COLUMNS)
        return cls(about["model"], about["version"], rows[:, 0].astype(np.int64), rows[:, 1:end], rows[:, end:-1])


def or_nan(value: float | None) -> float:
    """Return a number, NaN for None."""
    return math.nan if value is None else value
