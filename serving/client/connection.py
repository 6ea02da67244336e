"""HTTP to a server's two addresses: tokens, a deadline for each call, and repeats where they are safe.

Requests that TorchServe loses are sent again. A request in a batch that is being gathered when its worker dies is never
answered, so each of the first attempts has a quarter of the time, or four times the recent latency if that is longer: a
slow server does not get a request twice. Requests that a dying worker had begun get a 5xx at once. Requests that no
worker has seen (the queue is full, the server is restarting) are repeated after a pause, and requests that a worker
puts off (503 with Retry-After) after the pause that it asks for, until the deadline.
"""

import contextlib
import enum
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from serving.client.deadline import Deadline
from serving.client.endpoint import Answer, Endpoint, InvalidKey, NobodyListens
from serving.client.keys import Api, Key, Keys
from serving.errors import DeadlinePassed, NoKey, ServerFailed, Unreachable

# An image that kills its worker must not kill all of them: no request reaches more workers than this.
ATTEMPTS = 3
FULL = 12  # repeats while the queue is full, or there is no worker
LATEST = 16  # attempts whose latency is kept
AWAY = 3  # repeats while no server answers, if none has answered this client before
SHORTEST, LONGEST = 0.1, 0.5  # seconds of a pause


class Repeat(enum.Enum):
    """Which failed requests may be repeated; a request refused for its token always is."""

    NEVER = enum.auto()  # it changes something
    READING = enum.auto()  # it changes nothing
    WAITING = enum.auto()  # the same, and worth waiting for a server that is full or starts again


class Connection:
    """The addresses of one server; threads may share them.

    `find` returns the current addresses, inference and management, once nothing listens at the old ones: a restarted
    server has another management socket.

    Raises:
        ClientError: an address cannot be one.
    """

    def __init__(
        self,
        addresses: tuple[str, str],
        key_file: Path,
        *,
        find: Callable[[], tuple[str, str] | None] = lambda: None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.keys = Keys(key_file, self._renew)
        self._find = find
        self._transport = transport
        self._endpoints: dict[Api, Endpoint] = {
            "inference": Endpoint(addresses[0], transport),
            "management": Endpoint(addresses[1], transport),
        }
        self._moving = threading.Lock()
        self._left: list[Endpoint] = []  # those that the server has moved from
        self._answered = False
        self._took: dict[Api, deque[float]] = {"inference": deque(maxlen=LATEST), "management": deque(maxlen=LATEST)}

    def address(self, api: Api) -> str:
        """Return the current address of an API."""
        return self._endpoints[api].address

    def close(self) -> None:
        """Close all connections."""
        for endpoint in [*self._endpoints.values(), *self._left]:
            endpoint.close()

    def request(
        self, api: Api, method: str, path: str, *, deadline: Deadline, repeat: Repeat = Repeat.NEVER, **options: Any
    ) -> Answer:
        """Return the answer to a request that was a success, after as many attempts as `repeat` allows.

        `options` are those of `httpx.Client.request`: `content`, `json`, `files`, `headers`.

        Raises:
            ClientError: see `serving.errors`.
        """
        begun = waited = refused = 0
        while True:
            key = self.keys.current(api, deadline)
            last = repeat is Repeat.NEVER or begun == ATTEMPTS - 1
            attempt = deadline.at_most(math.inf if last else max(deadline.seconds / 4, 4 * self._usual(api)))
            try:
                return self._attempt(api, method, path, key, attempt, options)
            except InvalidKey:
                refused += 1
                if refused == ATTEMPTS:
                    raise NoKey(f"the server refuses every token in {self.keys.path.name}") from None
                self.keys.replace(api, key, deadline)
                continue
            except (Unreachable, ServerFailed) as error:
                failure: Unreachable | ServerFailed = error
            patience = self._repeats_if_unseen(failure)
            if patience is None:
                begun += 1
                again = repeat is not Repeat.NEVER and begun < ATTEMPTS
            else:
                waited += 1
                again = repeat is Repeat.WAITING and waited <= patience
            if not again:
                raise failure
            pause = 0.0  # an attempt that timed out was one
            if not isinstance(failure, DeadlinePassed):
                pause = random.uniform(0.5, 1) * min(SHORTEST * 2 ** min(begun + waited - 1, 9), LONGEST)
            if isinstance(failure, ServerFailed) and failure.retry_after is not None:
                pause += failure.retry_after
            if pause >= deadline.left:
                raise DeadlinePassed(f"no answer within {deadline.seconds:g} s; the last was: {failure}") from None
            time.sleep(pause)

    def _attempt(
        self, api: Api, method: str, path: str, key: Key, deadline: Deadline, options: dict[str, Any]
    ) -> Answer:
        start_time = time.monotonic()
        endpoint = self._endpoints[api]
        try:
            answer = endpoint.send(method, path, key, deadline, options)
        except NobodyListens:
            if not self._moved(api, endpoint):
                raise
            answer = self._endpoints[api].send(method, path, key, deadline, options)
        except DeadlinePassed:
            self._took[api].append(time.monotonic() - start_time)  # at least
            raise
        self._took[api].append(time.monotonic() - start_time)
        self._answered = True
        if answer.code < 400:
            return answer
        raise answer.error()

    def _usual(self, api: Api) -> float:
        """Return the seconds in which a quarter of the latest attempts were answered, 0 before there are some.

        A slow server answers all of them late; a few that are lost with a worker do not change this.
        """
        took = sorted(self._took[api])
        return took[LATEST // 4] if len(took) == LATEST else 0.0

    def _repeats_if_unseen(self, failure: Unreachable | ServerFailed) -> float | None:
        """Return how many repeats are allowed if no worker saw the request; None if one may have."""
        if isinstance(failure, NobodyListens):
            return math.inf if self._answered else AWAY
        if isinstance(failure, ServerFailed) and failure.retry_after is not None:
            return math.inf
        if isinstance(failure, ServerFailed) and failure.kind == "ServiceUnavailableException":
            return FULL
        return None

    def _moved(self, api: Api, before: Endpoint) -> bool:
        """Switch to the server's current address; return whether it differs from that of `before`."""
        found = self._find()
        address = found[0 if api == "inference" else 1] if found is not None else None
        if address is None or address == before.address:
            return False
        with self._moving:  # several threads may see that the server is gone; one switches
            if self._endpoints[api].address != address:
                self._left.append(self._endpoints[api])  # another thread may be using it
                self._endpoints[api] = Endpoint(address, self._transport)
        return True

    def _renew(self, api: Api, key: Key, deadline: Deadline) -> None:
        """Have the server replace the token of an API.

        Raises:
            ClientError: it does not.
        """
        with contextlib.suppress(InvalidKey):
            self._attempt("management", "GET", f"/token?type={api}", key, deadline, {})
            return
        raise NoKey("the server refuses the API key too")
