"""The time limit of one call, over all its attempts."""

import math
import time


class Deadline:
    """`seconds` from now.

    Raises:
        ValueError: `seconds` is not a finite number above 0.
    """

    def __init__(self, seconds: float) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"a deadline of {seconds} s is invalid: give a number above 0")
        self.seconds = seconds
        self._ends = time.monotonic() + seconds

    def at_most(self, seconds: float) -> "Deadline":
        """Return a deadline in `seconds`, or this one's end if that is sooner."""
        return Deadline(max(min(seconds, self.remaining_seconds), 0.001))

    @property
    def remaining_seconds(self) -> float:
        """Return the seconds until its end, at least 0."""
        return max(0.0, self._ends - time.monotonic())
