"""The attempts of one request: the time limit of each, and the pause before the next one.

A request in a batch that is being gathered when its worker dies is never answered, so each of the first attempts has a
quarter of the time, or four times the recent latency if that is longer: a slow server does not get a request twice.
Requests that a dying worker had begun get a 5xx at once. Requests that no worker has seen (the queue is full, the
server is restarting) are sent again after a pause, and requests that a worker puts off (503 with Retry-After) after the
pause that it asks for, until the deadline.
"""

import enum
import math
import random
import time

from serving.client.deadline import Deadline
from serving.client.endpoint import NobodyListens
from serving.errors import DeadlinePassed, ServerFailed, Unreachable

# An image that kills its worker must not kill all of them: no request reaches more workers than this.
ATTEMPTS = 3
FULL = 12  # repeats while the queue is full, or there is no worker
AWAY = 3  # repeats while no server answers, if none has answered this client before
MIN_PAUSE_S, MAX_PAUSE_S = 0.1, 0.5  # seconds of a pause

Failure = Unreachable | ServerFailed


class Repeat(enum.Enum):
    """Which failed requests may be repeated; a request refused for its token always is."""

    NEVER = enum.auto()  # it changes something
    READING = enum.auto()  # it changes nothing
    WAITING = enum.auto()  # the same, and worth waiting for a server that is full or starts again


class Attempts:
    """Counts the failed attempts of one request, and limits and delays the next one."""

    def __init__(self, repeat: Repeat, deadline: Deadline) -> None:
        self._repeat = repeat
        self._deadline = deadline
        self._worker_failures = 0  # attempts that a worker may have begun
        self._unseen_failures = 0  # attempts that reached no worker, or that it put off

    def next_deadline(self, usual_latency: float) -> Deadline:
        """Return the deadline of the next attempt: earlier than the request's if another attempt may follow."""
        if self._repeat is Repeat.NEVER or self._worker_failures == ATTEMPTS - 1:
            return self._deadline.at_most(math.inf)
        return self._deadline.at_most(max(self._deadline.seconds / 4, 4 * usual_latency))

    def wait(self, failure: Failure, *, server_has_answered: bool) -> None:
        """Count a failed attempt, and wait until the next one may start.

        Raises:
            ClientError: the failure, if no attempt may follow; DeadlinePassed if the pause ends after the deadline.
        """
        if not self._may_follow(failure, server_has_answered):
            raise failure
        pause = self._pause_after(failure)
        if pause >= self._deadline.remaining_seconds:
            raise DeadlinePassed(f"no answer within {self._deadline.seconds:g} s; the last was: {failure}") from None
        time.sleep(pause)

    def _may_follow(self, failure: Failure, server_has_answered: bool) -> bool:
        limit = _limit_if_unseen(failure, server_has_answered)
        if limit is None:
            self._worker_failures += 1
            return self._repeat is not Repeat.NEVER and self._worker_failures < ATTEMPTS
        self._unseen_failures += 1
        return self._repeat is Repeat.WAITING and self._unseen_failures <= limit

    def _pause_after(self, failure: Failure) -> float:
        """Return seconds: a random pause that doubles with each attempt, plus the time that the server asks for."""
        if isinstance(failure, DeadlinePassed):
            return 0.0  # the attempt has waited for its time limit already
        failures = self._worker_failures + self._unseen_failures
        pause = random.uniform(0.5, 1) * min(MIN_PAUSE_S * 2.0 ** min(failures - 1, 9), MAX_PAUSE_S)
        return pause + (_retry_after(failure) or 0.0)


def _limit_if_unseen(failure: Failure, server_has_answered: bool) -> float | None:
    """Return how many repeats are allowed if no worker has begun the request; None if one may have."""
    if isinstance(failure, NobodyListens):
        return math.inf if server_has_answered else AWAY
    if _retry_after(failure) is not None:
        return math.inf
    if isinstance(failure, ServerFailed) and failure.kind == "ServiceUnavailableException":
        return FULL
    return None


def _retry_after(failure: Failure) -> float | None:
    return failure.retry_after if isinstance(failure, ServerFailed) else None
