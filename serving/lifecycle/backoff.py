"""The time of the next retry."""

import math
from collections.abc import Callable


class Backoff:
    """A pause after each failure, `first` seconds at first and then twice the one before, up to `longest`."""

    def __init__(self, first: float, longest: float, clock: Callable[[], float]) -> None:
        self.first, self.longest, self.clock = first, longest, clock
        self.reset()

    def reset(self) -> None:
        """Forget all failures: the next attempt is due at once."""
        self._pause, self._due = self.first, -math.inf

    def is_failing(self) -> bool:
        """Return whether something failed since the last reset."""
        return self._due > -math.inf

    def is_due(self) -> bool:
        """Return whether the pause is over."""
        return self.clock() >= self._due

    def fail(self) -> None:
        """Begin the next pause."""
        self._due = self.clock() + self._pause
        self._pause = min(self.longest, 2 * self._pause)
