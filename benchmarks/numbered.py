"""Requests that carry their number, one after the other over each of some connections, to be found again in a log.
Each connection sends the next when the last is answered; on the loopback alone.
"""

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Mapping
from urllib.parse import urlsplit


class LoadError(Exception):
    """A request was not answered as it should be."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    """One request: its number, and when it was begun and answered (`time.monotonic`)."""

    number: int
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """Return how long it took."""
        return self.ended - self.began


def run(
    url: str, headers: Mapping[str, str], body: bytes, *, connections: int, seconds: float, number: str, first: int = 0
) -> list[Sent]:
    """Post `body` to `url` over so many connections until `seconds` have passed, and return every request.

    `number` names a header that carries each request's number, from `first` on.

    Raises:
        LoadError: an answer is not 200, or a connection ends.
    """
    where = urlsplit(url)
    if where.hostname not in ("127.0.0.1", "localhost"):
        raise LoadError(f"{url} is not on this machine: load is sent to the loopback alone")
    lines = [f"POST {where.path} HTTP/1.1", f"Host: {where.netloc}", f"Content-Length: {len(body)}"]
    head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), ""])
    return asyncio.run(_run(where.hostname, where.port or 80, head, body, connections, seconds, number, first))


async def _run(
    host: str, port: int, head: str, body: bytes, connections: int, seconds: float, number: str, first: int
) -> list[Sent]:
    numbers = itertools.count(first)
    deadline = time.monotonic() + seconds
    sent: list[Sent] = []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            while time.monotonic() < deadline:
                current = next(numbers)
                began = time.monotonic()
                writer.write(f"{head}{number}: {current}\r\n\r\n".encode() + body)
                await _answer(reader)
                sent.append(Sent(current, began, time.monotonic()))
        finally:
            writer.close()

    try:
        async with asyncio.timeout(seconds + 60):
            await asyncio.gather(*(connection() for _ in range(connections)))
    except (OSError, EOFError, TimeoutError) as error:
        raise LoadError(f"a request was not answered: {error!r}") from error
    return sent


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """Read one whole answer and return its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, *lines = head.split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    if status.split()[1] != "200":
        raise LoadError(f"{status}: {body[:200].decode(errors='replace')}")
    return body
