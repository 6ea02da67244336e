"""Kept connections to one model, for tests that send thousands of requests: a tenth of what httpx costs."""

import dataclasses
import http.client
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.server.conftest import RunningServer


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """What came back; a `status` of 0 where nothing did, and then `body` says why."""

    status: int
    body: bytes
    seconds: float


class Connections:
    """`count` connections that each send one body after the other; `timeout` in seconds is that of one answer."""

    def __init__(self, server: RunningServer, model: str, count: int, timeout: float) -> None:
        self._address = urlsplit(server.state.inference)
        self._path = f"/predictions/{model}"
        self._headers = {**server.token(), "Content-Type": "application/octet-stream"}
        self._timeout = timeout
        self._own = threading.local()
        self._open: list[http.client.HTTPConnection] = []
        self._pool = ThreadPoolExecutor(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        for connection in self._open:
            connection.close()

    def ask_all(self, bodies: Iterable[bytes]) -> Iterator[Reply]:
        """Send all bodies, as many at once as there are connections; yield the replies in order."""
        return self._pool.map(self.ask, bodies)

    def ask(self, body: bytes) -> Reply:
        """Send one body over this thread's own connection."""
        connection = self._connection()
        began = time.monotonic()
        try:
            connection.request("POST", self._path, body, self._headers)
            response = connection.getresponse()
            status, answer = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()  # the next request opens it again
            status, answer = 0, repr(error).encode()
        return Reply(status, answer, time.monotonic() - began)

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._own, "connection"):
            self._own.connection = http.client.HTTPConnection(
                str(self._address.hostname), self._address.port, timeout=self._timeout
            )
            self._open.append(self._own.connection)
        connection: http.client.HTTPConnection = self._own.connection
        return connection
