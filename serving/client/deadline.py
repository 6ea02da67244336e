"""The time that one call may take, whatever it has to do for its answer."""

import math
import time


class Deadline:
    """`seconds` from now.

    Raises:
        ValueError: that is no time, or for ever.
    """

    def __init__(self, seconds: float) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"a deadline of {seconds} s is invalid: give a number above 0")
        self.seconds = seconds
        self._ends = time.monotonic() + seconds

    def at_most(self, seconds: float) -> "Deadline":
        """Return one that ends in so many seconds, or with this one."""
        return Deadline(max(min(seconds, self.left), 0.001))

    @property
    def left(self) -> float:
        """Return the seconds that are left, 0 where none are."""
        return max(0.0, self._ends - time.monotonic())
