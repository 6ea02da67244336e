"""How long the stages of a batch take."""

import time


class Stages:
    """Seconds of each stage since `begin`; a stage may have several parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = 0.0

    def begin(self) -> None:
        """Start with another batch."""
        self.seconds = {}
        self._last = time.perf_counter()

    def end(self, stage: str) -> None:
        """Add the time since the end of the last part to a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
