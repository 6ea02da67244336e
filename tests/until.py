"""Waiting for something to become so, no longer than it takes."""

import time
from collections.abc import Callable

BUSY = 3  # times: how much slower than alone a machine may be that other programs share


def until(done: Callable[[], object], seconds: float, *, promised: bool = False) -> None:
    """Wait until something is so, as it is after `seconds` on a machine that does nothing else.

    Raises:
        AssertionError: it is not so after `BUSY` times that, or after `seconds` that the docs or an issue promise.
    """
    deadline = time.monotonic() + (1 if promised else BUSY) * seconds
    while not done():
        assert time.monotonic() < deadline, "not within the time that it may take"
        time.sleep(0.05)
