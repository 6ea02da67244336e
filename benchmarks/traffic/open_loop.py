"""Open-loop load: requests are sent at scheduled times, whether or not earlier ones have been answered.

Latency counts from the scheduled time, not from the actual sending: a stall of the server counts for all requests that
queue behind it (coordinated omission). A closed loop cannot measure that.
"""

import asyncio
import dataclasses
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

# Beyond this lateness the generator is the bottleneck. The event loop rounds its waits up to a millisecond.
LATE = 0.003  # seconds, of the 99th percentile
MAX_REQUESTS = 10**7  # requests of a closed loop


@dataclasses.dataclass(frozen=True, slots=True)
class TimedAnswer:
    """The answer to one request; times in seconds of `time.perf_counter`, which processes of one machine share.

    `status` is 0 if no answer arrived before the deadline or the connection broke; `number` is that of the body.
    """

    number: int
    due: float
    sent: float
    received: float
    status: int
    version: str
    body: bytes

    @property
    def latency(self) -> float:
        """Return the seconds since the scheduled sending."""
        return self.received - self.due


@dataclasses.dataclass(frozen=True, slots=True)
class Latencies:
    """The figures of one run; times in milliseconds from the scheduled sending.

    `lateness` is the 99th percentile of the delay between schedule and sending on free connections; `behind` says that
    it is too long to trust the latencies. `waited` requests had to wait for a free connection.
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
    """Return the times in seconds of requests: those of independent users (Poisson), or even ones.

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


def fill_failures(latencies: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the latencies with the longest of them for each failure, which is a NaN; 0 if every request failed.

    Without the failures a server that drops requests would look fast.
    """
    values = np.asarray(latencies, dtype=float)
    failed = np.isnan(values)
    return np.where(failed, values[~failed].max(initial=0.0), values)


def quantile(latencies: np.ndarray, share: float) -> float:
    """Return the quantile of latencies as one of them, the higher one between two."""
    return float(np.quantile(latencies, share, method="higher"))


def summarize(latencies: Sequence[float], lateness: Sequence[float], *, rate: float, waited: int) -> Latencies:
    """Return the figures of a run from seconds; a latency of NaN is a request that failed."""
    filled = fill_failures(latencies)
    late = quantile(np.asarray(lateness), 0.99) if len(lateness) else 0.0
    return Latencies(
        rate=rate,
        requests=len(filled),
        failures=int(np.isnan(latencies).sum()),
        p50=round(float(np.median(filled)) * 1e3, 3),
        p99=round(quantile(filled, 0.99) * 1e3, 3),
        longest=round(float(filled.max(initial=0.0)) * 1e3, 3),
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
    certificate: Path | None = None,
) -> Latencies:
    """Send a request at each of `times` (seconds from now), the bodies in turn, over kept connections.

    An answer other than 200, or none within `timeout` seconds, is a failure.
    """
    load = Run(url, bodies, times, headers or {}, timeout, certificate)
    asyncio.run(load.all(connections))
    latencies = [answer.latency if answer.status == 200 else float("nan") for answer in load.answers]
    rate = len(times) / times[-1] if times[-1] else 0.0
    return summarize(latencies, load.lateness, rate=round(rate, 2), waited=load.waited)


class Run:
    """One run: connections that take the next scheduled request as soon as they are free, until it is stopped.

    `answers` has an entry for each request, in the order of their ends. `certificate`, in PEM, is that of a server with
    https, or of its authority.
    """

    def __init__(
        self, url: str, bodies: Sequence[bytes], times: Sequence[float], headers: Mapping[str, str], timeout: float,
        certificate: Path | None = None,
    ) -> None:  # fmt: skip
        parts = urlsplit(url)
        if parts.hostname not in ("127.0.0.1", "localhost"):
            raise ValueError(f"{url} is not on this machine: load is sent to the loopback only")
        self.host, self.port = parts.hostname, parts.port or 80
        self.context = ssl.create_default_context(cafile=certificate) if parts.scheme == "https" else None
        lines = [f"POST {parts.path or '/'} HTTP/1.1", f"Host: {self.host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join(lines)
        self.requests = [f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self.times, self.timeout = times, timeout
        self.next = 0
        self.waited = 0
        self.stopped = False
        self.answers: list[TimedAnswer] = []
        self.lateness: list[float] = []

    def stop(self) -> None:
        """Send no more requests."""
        self.stopped = True

    async def all(self, connections: int) -> None:
        """Send all requests over `connections`, which are open before the first request."""
        streams = [await self._open() for _ in range(connections)]
        self.start = time.perf_counter()
        await asyncio.gather(*(self._connection(*stream) for stream in streams))

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port, ssl=self.context)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self.next < len(self.times) and not self.stopped:
            number = self.next
            self.next += 1
            due = self.start + self.times[number]
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
                self.lateness.append(time.perf_counter() - due)
            else:
                self.waited += 1
            answer = await self._ask(number, due, reader, writer)
            self.answers.append(answer)
            if not answer.status:
                writer.close()
                again = await self._connect()
                if again is None:
                    return
                reader, writer = again
        writer.close()

    async def _ask(
        self, number: int, due: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> TimedAnswer:
        which = number % len(self.requests)
        sent, status, version, body = time.perf_counter(), 0, "", b""
        try:
            async with asyncio.timeout(self.timeout):
                writer.write(self.requests[which])
                await writer.drain()
                status, version, body = await _answer(reader)
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError):
            pass
        return TimedAnswer(which, due, sent, time.perf_counter(), status, version, body)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Connect again; while connecting fails, requests that are due fail too."""
        while self.next < len(self.times) and not self.stopped:
            try:
                return await self._open()
            except OSError:
                await asyncio.sleep(0.02)
            now = time.perf_counter()
            while self.next < len(self.times) and self.start + self.times[self.next] < now:
                which, due = self.next % len(self.requests), self.start + self.times[self.next]
                self.next += 1
                self.answers.append(TimedAnswer(which, due, now, now, 0, "", b""))
        return None


async def _answer(reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
    """Read one answer: its status, the model's version, and the body; ValueError without a Content-Length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    lines = head.split("\r\n")
    fields = dict(line.split(":", 1) for line in lines[1:] if ":" in line)
    body = await reader.readexactly(int(fields.get("content-length", "")))
    return int(lines[0].split(" ", 2)[1]), fields.get("model-version", "").strip(), body
