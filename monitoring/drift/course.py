"""Drift over the time of a prediction log: windows without a common image, and the one where the alarm began."""

import dataclasses
import datetime as dt
from collections.abc import Sequence

from handlers.observation.reference import Reference
from monitoring.drift.sample import Sample
from monitoring.drift.verdict import Verdict, judge

WINDOW = 100  # images
PAUSE = 1  # windows without an alarm that do not end one


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """The verdict on images of a log, between the times of the first and the last one."""

    first: dt.datetime
    last: dt.datetime
    verdict: Verdict

    @property
    def alarms(self) -> bool:
        """Return whether the images differ from those of validation."""
        return self.verdict.kind != "none"


def windows(reference: Reference, sample: Sample) -> list[Window]:
    """Return the windows of a log, oldest first; the newest one ends with the newest image."""
    course = []
    for start in range(len(sample) % WINDOW, len(sample), WINDOW):
        part = dataclasses.replace(sample, rows=sample.rows[start : start + WINDOW])
        first, last = part.rows[0].time, part.rows[-1].time
        assert first is not None and last is not None
        course.append(Window(first, last, judge(reference, part.images)))
    return course


def onset(alarms: Sequence[bool]) -> int | None:
    """Return the place of the window from which the alarm persists to the newest one; None without an alarm there.

    Between two alarms, `PAUSE` windows may be without one: a mild shift is not in all windows.
    """
    start, quiet = None, 0
    if not alarms or not alarms[-1]:
        return None
    for place in range(len(alarms) - 1, -1, -1):
        quiet = 0 if alarms[place] else quiet + 1
        if quiet > PAUSE:
            break
        start = place if alarms[place] else start
    return start
