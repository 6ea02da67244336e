"""Drift of one version of a model while it serves: windows over the newest images of all its workers.

A window is tested when it is full, again when newer images have come, at most every `SECONDS`, and so rarely that the
tests take no more than `SHARE` of a core. After an hour without an image there is no verdict.
"""

import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from handlers.observation.recent import COLUMNS, Copy
from handlers.observation.reference import LEAST_ROWS, Reference
from handlers.observation.statistics import Statistics
from handlers.spec import REFERENCE
from monitoring.drift.verdict import Images, Verdict, judge

WINDOWS = (100, 500)  # images
SECONDS = 10.0
SHARE = 0.005  # of the time that passes, as processor time
STALE = 3600.0  # seconds after the newest image
SLACK = 60.0  # seconds that an image may be ahead of this process's clock
TIME = COLUMNS.index("time")


def reference_of(archive: Path) -> Reference | None:
    """Return the reference that an archive carries, or None without one.

    Raises:
        ArtifactError: it is damaged.
        OSError, BadZipFile: there is no such archive.
    """
    with zipfile.ZipFile(archive) as file:
        if REFERENCE not in file.namelist():
            return None
        return Reference.parse(file.read(REFERENCE), f"{REFERENCE} of {archive}")


class LiveDrift:
    """The newest verdicts on one version of a model.

    Args:
        reference: of its archive; with fewer than `LEAST_ROWS` images it counts as none.
        clock: monotonic, in seconds.
        cost: in seconds of processor time.
    """

    def __init__(
        self,
        reference: Reference | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        cost: Callable[[], float] = time.thread_time,
    ) -> None:
        self.reference = reference if reference is not None and len(reference) >= LEAST_ROWS else None
        self._clock, self._cost = clock, cost
        self._due = -float("inf")
        self._newest = -float("inf")
        self._verdicts: dict[int, Verdict] = {}

    def verdicts(self, read: Callable[[], Sequence[Copy]]) -> Mapping[int, Verdict]:
        """Return the verdicts by the images of their windows; none without a reference.

        `read` returns the rings of the version's workers; it is called when a test is due.
        """
        if self.reference is not None and self._clock() >= self._due:
            start = self._cost()
            self._test(newest(read(), max(WINDOWS), len(self.reference.scale)), self.reference)
            self._due = self._clock() + max(SECONDS, (self._cost() - start) / SHARE)
        return self._verdicts

    def _test(self, rows: npt.NDArray[np.float64], reference: Reference) -> None:
        last = float(rows[-1, TIME]) if len(rows) else -float("inf")
        if time.time() - last > STALE:
            self._verdicts = {}
        elif last != self._newest:
            windows = (size for size in WINDOWS if len(rows) >= size)
            self._verdicts = {size: judge(reference, images_of(rows[-size:])) for size in windows}
        self._newest = last


def newest(copies: Sequence[Copy], count: int, width: int) -> npt.NDArray[np.float64]:
    """Return up to `count` rows (N, columns + width) of all workers, oldest first, with an embedding of that width."""
    whole = [np.hstack([copy.columns, copy.embeddings]) for copy in copies if copy.embeddings.shape[1] == width]
    if not whole:
        return np.empty((0, len(COLUMNS) + width))
    rows = np.concatenate(whole)
    # Images from before a clock was set back are passed over, until it has caught up with them.
    is_past = rows[:, TIME] <= time.time() + SLACK
    rows = rows[is_past & np.isfinite(rows[:, len(COLUMNS) :]).all(axis=1)]
    return rows[rows[:, TIME].argsort(kind="stable")][-count:]


def images_of(rows: npt.NDArray[np.float64]) -> Images:
    """Return the images of rows (N, columns + width) of a ring."""
    columns = {name: rows[:, place] for place, name in enumerate(COLUMNS)}
    statistics = np.column_stack([columns[name] for name in Statistics._fields])
    return Images(rows[:, len(COLUMNS) :], statistics, columns["confidence"], columns["place"].astype(np.int64))
