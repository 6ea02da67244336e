"""httpx's transport with one deadline for a whole request.

httpx's own time-outs are those of a single read or write: an answer that comes byte by byte would never be late.
"""

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from serving.client.deadline import Deadline


class Left(float):
    """The seconds that a deadline leaves, for httpx, which hands this very object on to each read and write."""

    deadline: Deadline

    def __new__(cls, deadline: Deadline) -> "Left":
        """Return the seconds that are left now."""
        left = super().__new__(cls, deadline.left)
        left.deadline = deadline
        return left


def timeout_of(deadline: Deadline, *, connect: float) -> httpx.Timeout:
    """Return the time-outs of a request that ends with a deadline, and connects within `connect` seconds."""
    return httpx.Timeout(Left(deadline), connect=min(connect, deadline.left))


class Transport(httpx.HTTPTransport):
    """To a TCP address, or to the unix socket at the path `uds`; a proxy of the environment is not used."""

    def __init__(self, uds: str | None) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        super().__init__(uds=uds, limits=limits, trust_env=False)
        self._pool._network_backend = _Backend()  # httpx has no argument for it


class _Backend(httpcore.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(super().connect_tcp(host, port, timeout, local_address, socket_options))

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(super().connect_unix_socket(path, timeout, socket_options))


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        socket, rest = self._stream.get_extra_info("socket"), memoryview(buffer)
        try:
            while rest:
                socket.settimeout(_left(timeout, httpcore.WriteTimeout))
                rest = rest[socket.send(rest) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(timeout: float | None, late: type[httpcore.TimeoutException]) -> float | None:
    if not isinstance(timeout, Left):
        return timeout
    left = timeout.deadline.left
    if not left:
        raise late("the deadline has passed")
    return left
