"""HTTP to a server's two addresses: tokens, a deadline for each call, and safe repeats.

Requests that TorchServe loses are sent again: `serving.client.attempts` says which, how often and when.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from serving.client.attempts import ATTEMPTS, Attempts, Repeat
from serving.client.deadline import Deadline
from serving.client.endpoint import Answer, Endpoint, InvalidKey, NobodyListens
from serving.client.tokens import Api, Token, Tokens
from serving.errors import DeadlinePassed, NoKey, ServerFailed, Unreachable

LATEST = 16  # attempts whose latency is kept


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
        self.tokens = Tokens(key_file, self._renew)
        self._find = find
        self._transport = transport
        self._endpoints: dict[Api, Endpoint] = {
            "inference": Endpoint(addresses[0], transport),
            "management": Endpoint(addresses[1], transport),
        }
        self._switching = threading.Lock()
        self._former_endpoints: list[Endpoint] = []  # the server has moved from them
        self._has_answered = False
        self._latencies: dict[Api, deque[float]] = {
            "inference": deque(maxlen=LATEST),
            "management": deque(maxlen=LATEST),
        }

    def address(self, api: Api) -> str:
        """Return the current address of an API."""
        return self._endpoints[api].address

    def close(self) -> None:
        """Close all connections."""
        for endpoint in [*self._endpoints.values(), *self._former_endpoints]:
            endpoint.close()

    def request(
        self, api: Api, method: str, path: str, *, deadline: Deadline, repeat: Repeat = Repeat.NEVER, **options: Any
    ) -> Answer:
        """Return the answer to a request that was a success, after as many attempts as `repeat` allows.

        `options` are those of `httpx.Client.request`: `content`, `json`, `files`, `headers`.

        Raises:
            ClientError: see `serving.errors`.
        """
        attempts = Attempts(repeat, deadline)
        refusals = 0
        while True:
            token = self.tokens.current(api, deadline)
            try:
                attempt_deadline = attempts.next_deadline(self._usual_latency(api))
                return self._attempt(api, method, path, token, attempt_deadline, options)
            except InvalidKey:
                refusals += 1
                if refusals == ATTEMPTS:
                    raise NoKey(f"the server refuses every token in {self.tokens.path.name}") from None
                self.tokens.after_refusal(api, token, deadline)
            except (Unreachable, ServerFailed) as failure:
                attempts.wait(failure, server_has_answered=self._has_answered)

    def _attempt(
        self, api: Api, method: str, path: str, token: Token, deadline: Deadline, options: dict[str, Any]
    ) -> Answer:
        start_time = time.monotonic()
        endpoint = self._endpoints[api]
        try:
            answer = endpoint.send(method, path, token, deadline, options)
        except NobodyListens:
            if not self._switch_address(api, endpoint):
                raise
            answer = self._endpoints[api].send(method, path, token, deadline, options)
        except DeadlinePassed:
            self._latencies[api].append(time.monotonic() - start_time)  # the latency is at least that
            raise
        self._latencies[api].append(time.monotonic() - start_time)
        self._has_answered = True
        if answer.code < 400:
            return answer
        raise answer.error()

    def _usual_latency(self, api: Api) -> float:
        """Return the seconds in which a quarter of the latest attempts were answered, 0 before there are some.

        A slow server answers all of them late; a few that are lost with a worker do not change this.
        """
        latencies = sorted(self._latencies[api])
        return latencies[LATEST // 4] if len(latencies) == LATEST else 0.0

    def _switch_address(self, api: Api, failed_endpoint: Endpoint) -> bool:
        """Switch to the server's current address; return whether it differs from the failed one."""
        addresses = self._find()
        address = addresses[0 if api == "inference" else 1] if addresses is not None else None
        if address is None or address == failed_endpoint.address:
            return False
        with self._switching:  # several threads may notice a failure at once; one of them switches
            if self._endpoints[api].address != address:
                self._former_endpoints.append(self._endpoints[api])  # another thread may be using it
                self._endpoints[api] = Endpoint(address, self._transport)
        return True

    def _renew(self, api: Api, token: Token, deadline: Deadline) -> None:
        """Have the server replace the token of an API.

        Raises:
            ClientError: it does not.
        """
        with contextlib.suppress(InvalidKey):
            self._attempt("management", "GET", f"/token?type={api}", token, deadline, {})
            return
        raise NoKey("the server refuses the API key too")
