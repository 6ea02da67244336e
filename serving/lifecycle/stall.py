"""A stalled queue: how long nothing was answered, and how long no worker has computed."""

import dataclasses

COMPUTES = 0.05  # of a core: a worker that uses less is waiting


@dataclasses.dataclass(slots=True)
class Stall:
    """Requests that have waited for the same workers since `start_time`; the workers have been idle since `idle`.

    Both are seconds of one clock.
    """

    start_time: float
    answered: float  # how much the version has answered by then
    workers: frozenset[int]  # the processes that should answer
    idle: float
    computed: float  # processor seconds of the workers until then

    @classmethod
    def start(cls, now: float, answered: float, workers: frozenset[int], computed: float) -> "Stall":
        """Return one that begins now."""
        return cls(now, answered, workers, now, computed)

    def goes_on(self, answered: float, workers: frozenset[int]) -> bool:
        """Return whether nothing was answered and no worker was replaced since it began."""
        return (answered, workers) == (self.answered, self.workers)

    def see(self, now: float, computed: float, patience: float) -> None:
        """Record the workers' processor time: a worker that computes within `patience` seconds is not idle."""
        if computed - self.computed >= COMPUTES * patience:
            self.idle, self.computed = now, computed

    def is_over(self, now: float, patience: float, response_timeout: float) -> bool:
        """Return whether workers were idle for `patience` seconds, or answered nothing for that plus the time limit."""
        return now - self.idle > patience or now - self.start_time > response_timeout + patience
