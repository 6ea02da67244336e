"""The time that each part of a piece of work takes."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

from torch.profiler import record_function


class Parts:
    """Measures the parts of a step, and names them in torch's profile.

    `wait` returns when the device has done all that it was given: a GPU works on while Python goes ahead.
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait = wait
        self._seconds: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the block as the part `name`."""
        self._wait()
        start = time.perf_counter()
        with record_function(name):
            yield
            self._wait()
        self._seconds.setdefault(name, []).append(time.perf_counter() - start)

    def restart(self) -> None:
        """Forget all measurements: those of a warm-up."""
        self._seconds.clear()

    def milliseconds(self) -> dict[str, float]:
        """Return the median of each part, in the order in which they began."""
        return {name: round(1000 * statistics.median(seconds), 2) for name, seconds in self._seconds.items()}
