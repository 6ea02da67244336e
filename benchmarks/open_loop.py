"""Open-loop load: requests leave at times that were set before, whether or not the last ones have been answered.

Latency counts from the time that a request was to leave, not from when it did: a server that stalls is charged with
everything that piled up behind the stall (coordinated omission). A closed loop cannot see that.
"""

import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import numpy as np

# Beyond this lateness the generator itself is what was measured. The event loop rounds its waits up to a millisecond.
LATE = 0.003  # seconds, of the 99th percentile


@dataclasses.dataclass(frozen=True, slots=True)
class Latencies:
    """What came of one run; times in milliseconds from the scheduled sending.

    `lateness` is the 99th percentile of how much later than scheduled requests left on a connection that was free;
    `behind` says that this is too much to trust the latencies. `waited` requests found no connection free in time.
    """

    rate: float
    requests: int
    failures: int
    p50: float
    p99: float
    longest: float
    lateness: float
    waited: int
    behind: bool


def schedule(rate: float, seconds: float, *, poisson: bool = True, seed: int = 0) -> list[float]:
    """Return the times in seconds at which requests leave: as independent users do (Poisson), or evenly.

    Raises:
        ValueError: rate or seconds is not above 0.
    """
    if rate <= 0 or seconds <= 0:
        raise ValueError(f"rate is {rate} and seconds is {seconds}: both must be above 0")
    count = max(1, round(rate * seconds))
    if not poisson:
        return [number / rate for number in range(count)]
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    times: list[float] = np.cumsum(gaps).tolist()
    return times


def summarize(latencies: Sequence[float], lateness: Sequence[float], *, rate: float, waited: int) -> Latencies:
    """Return the figures of a run from seconds; a latency of NaN is a request that failed.

    A failure takes part in the quantiles as the longest latency of all: leaving it out would make a server that drops
    requests look fast.
    """
    values = np.asarray(latencies, dtype=float)
    failed = int(np.isnan(values).sum())
    answered = values[~np.isnan(values)]
    longest = float(answered.max()) if len(answered) else 0.0
    counted = np.sort(np.concatenate([answered, np.full(failed, longest)])) * 1e3
    late = float(np.quantile(np.asarray(lateness), 0.99, method="higher")) if len(lateness) else 0.0
    return Latencies(
        rate=rate,
        requests=len(values),
        failures=failed,
        p50=round(float(np.median(counted)), 3),
        p99=round(float(np.quantile(counted, 0.99, method="higher")), 3),
        longest=round(longest * 1e3, 3),
        lateness=round(late * 1e3, 3),
        waited=waited,
        behind=late > LATE,
    )


def run(
    url: str,
    bodies: Sequence[bytes],
    times: Sequence[float],
    *,
    connections: int = 64,
    headers: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> Latencies:
    """Send a request at each of `times` (seconds from now), the bodies in turn, over kept connections.

    An answer other than 200, or none within `timeout` seconds, is a failure.
    """
    return asyncio.run(_Run(url, bodies, times, headers or {}, timeout).all(connections))


class _Run:
    """One run: connections that take the next scheduled request as soon as they are free."""

    def __init__(
        self, url: str, bodies: Sequence[bytes], times: Sequence[float], headers: Mapping[str, str], timeout: float
    ) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        lines = [f"POST {parts.path or '/'} HTTP/1.1", f"Host: {self.host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join(lines)
        self.requests = [f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self.times, self.timeout = times, timeout
        self.next = 0
        self.waited = 0
        self.latencies = [float("nan")] * len(times)
        self.lateness: list[float] = []

    async def all(self, connections: int) -> Latencies:
        # All connections stand before the first request leaves.
        streams = [await asyncio.open_connection(self.host, self.port) for _ in range(connections)]
        self.began = time.perf_counter()
        await asyncio.gather(*(self._connection(*stream) for stream in streams))
        rate = len(self.times) / self.times[-1] if self.times[-1] else 0.0
        return summarize(self.latencies, self.lateness, rate=round(rate, 2), waited=self.waited)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self.next < len(self.times):
            number = self.next
            self.next += 1
            due = self.began + self.times[number]
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
                self.lateness.append(time.perf_counter() - due)
            else:
                self.waited += 1
            try:
                async with asyncio.timeout(self.timeout):
                    writer.write(self.requests[number % len(self.requests)])
                    await writer.drain()
                    if await _status(reader) == 200:
                        self.latencies[number] = time.perf_counter() - due
            except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError):
                writer.close()
                try:
                    reader, writer = await asyncio.open_connection(self.host, self.port)
                except OSError:  # the server is gone: what is left to this connection fails
                    return
        writer.close()


async def _status(reader: asyncio.StreamReader) -> int:
    """Read one whole answer and return its status; ValueError where its length is not told."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    lines = head.split("\r\n")
    fields = dict(line.split(":", 1) for line in lines[1:] if ":" in line)
    await reader.readexactly(int(fields.get("content-length", "")))
    return int(lines[0].split(" ", 2)[1])
