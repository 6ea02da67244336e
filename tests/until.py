"""Waiting for something to become so, no longer than it takes."""

import time
from collections.abc import Callable


def until(done: Callable[[], object], seconds: float) -> float:
    """Wait until something is so; return the seconds that it took.

    Raises:
        AssertionError: it is not so after `seconds`.
    """
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < seconds, "not within the time that it may take"
        time.sleep(0.05)
    return time.monotonic() - began
