"""httpx's transport with one deadline for a whole request.

httpx's own time-outs are those of a single read or write: an answer that comes byte by byte would never be late.
"""

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from serving.client.deadline import Deadline


class RemainingSeconds(float):
    """The seconds until a deadline, for httpx, which passes this very object to each read and write."""

    deadline: Deadline

    def __new__(cls, deadline: Deadline) -> "RemainingSeconds":
        """Return the seconds from now."""
        seconds = super().__new__(cls, deadline.remaining_seconds)
        seconds.deadline = deadline
        return seconds


def timeout_of(deadline: Deadline, *, connect: float) -> httpx.Timeout:
    """Return the time-outs of a request that ends with a deadline, and connects within `connect` seconds."""
    return httpx.Timeout(RemainingSeconds(deadline), connect=min(connect, deadline.remaining_seconds))


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
        return self._stream.read(max_bytes, _remaining_seconds(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        socket, unsent = self._stream.get_extra_info("socket"), memoryview(buffer)
        try:
            while unsent:
                socket.settimeout(_remaining_seconds(timeout, httpcore.WriteTimeout))
                unsent = unsent[socket.send(unsent) :]
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


def _remaining_seconds(timeout: float | None, late: type[httpcore.TimeoutException]) -> float | None:
    """Return the time-out of one read or write, now; the one given if the request has no deadline."""
    if not isinstance(timeout, RemainingSeconds):
        return timeout
    seconds = timeout.deadline.remaining_seconds
    if not seconds:
        raise late("the deadline has passed")
    return seconds
