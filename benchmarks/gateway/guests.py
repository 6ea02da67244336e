"""Slow, idle and oversized clients beside good ones: do the good ones notice?

    python -m benchmarks.gateway.guests                      500 slow, 200 idle, 100 oversized a second; 3 minutes
    python -m benchmarks.gateway.guests --seconds 5 --rounds 1

One node gets 50 good requests/s through the gateway, for `--seconds` alone and for as long beside the guests, by turns.
Slow clients send a byte a second of a request, idle ones none; those that the gateway refuses come again. An oversized
request announces a body of 30 MB and begins to send it. The last line is one JSON document.
"""

import asyncio
import contextlib
import itertools
import multiprocessing
import ssl
import statistics
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from benchmarks.gateway import fleet
from benchmarks.gateway.fleet import Fleet
from benchmarks.gateway.kills import CODE, DEADLINE, figures
from benchmarks.harness import console, small_server
from benchmarks.harness.small_server import Expected
from benchmarks.result import Origin
from benchmarks.traffic import background_load

RESULT, WORK = Path("benchmarks/results/gateway_guests.json"), Path("runs/bench-gateway-guests")
RATE = 50.0  # good requests/s
ANNOUNCED, BEGUN = 30_000_000, 100_000  # bytes of an oversized body
SETTLING = 12.0  # seconds until all guests are there; TLS takes two milliseconds for each
GOAL = 2.0  # times the p99 without guests


class Crowd(NamedTuple):
    """Slow clients, idle ones, and oversized requests/s."""

    slow: int
    idle: int
    oversized: int


CROWD = Crowd(500, 200, 100)


class Guests:
    """Clients that behave badly; `endings` counts how the gateway ended their requests."""

    def __init__(self, url: str, headers: dict[str, str], certificate: Path, crowd: Crowd) -> None:
        self._address, self._crowd = urlsplit(url), crowd
        self._context = ssl.create_default_context(cafile=certificate)
        lines = [f"POST {self._address.path} HTTP/1.1", "Host: localhost", *(f"{k}: {v}" for k, v in headers.items())]
        self._head = "\r\n".join(lines).encode()
        self.endings: Counter[str] = Counter()

    async def all(self) -> None:
        """Run them until cancelled."""
        crowd = self._crowd
        slow = [self._again(self._send_slowly, number / crowd.slow) for number in range(crowd.slow)]
        idle = [self._again(self._be_idle, number / crowd.idle) for number in range(crowd.idle)]
        await asyncio.gather(*slow, *idle, self._oversized())

    async def _again(self, visit: Any, delay: float) -> None:
        await asyncio.sleep(SETTLING / 2 * delay)
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
                await self._visit(visit)
            await asyncio.sleep(0.1)

    async def _visit(self, visit: Any) -> None:
        reader, writer = await asyncio.open_connection("localhost", self._address.port, ssl=self._context)
        try:
            await visit(reader, writer)
        finally:
            writer.transport.abort()

    async def _send_slowly(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = asyncio.ensure_future(reader.read(4096))
        for byte in self._head:
            writer.write(bytes([byte]))
            ended, _ = await asyncio.wait([answer], timeout=1.0)
            if ended:
                break
        self._count("slow", await answer)

    async def _be_idle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count("idle", await reader.read(4096))

    async def _oversized(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        start = asyncio.get_running_loop().time()
        for number in itertools.count():
            task = asyncio.ensure_future(self._one_oversized())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(max(0.0, start + number / self._crowd.oversized - asyncio.get_running_loop().time()))

    async def _one_oversized(self) -> None:
        async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(self._head + f"\r\nContent-Length: {ANNOUNCED}\r\n\r\n".encode() + bytes(BEGUN))
            async with asyncio.timeout(DEADLINE):
                self._count("oversized", await reader.read(4096))

        try:
            await self._visit(send)
        except (OSError, TimeoutError, ssl.SSLError) as error:
            self.endings[f"oversized: {type(error).__name__}"] += 1

    def _count(self, kind: str, answer: bytes) -> None:
        self.endings[f"{kind}: {answer[9:12].decode('latin-1') or 'closed'}"] += 1


def _visit(pipe: Connection, url: str, headers: dict[str, str], certificate: Path, crowd: Crowd) -> None:
    guests = Guests(url, headers, certificate, crowd)

    async def until_told() -> None:
        task = asyncio.ensure_future(guests.all())
        await asyncio.to_thread(pipe.recv)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(until_told())
    pipe.send(dict(guests.endings))


@contextlib.contextmanager
def visiting(running: Fleet, endings: Counter[str], crowd: Crowd = CROWD) -> Iterator[None]:
    """Have the guests visit from a process of their own while the block runs, and add their `endings`."""
    context = multiprocessing.get_context("spawn")
    pipe, child = context.Pipe()
    arguments = (child, running.url, running.headers, running.certificate, crowd)
    process = context.Process(target=_visit, args=arguments, daemon=True)
    process.start()
    threading.Event().wait(SETTLING)
    try:
        yield
    finally:
        pipe.send("end")
        endings.update(pipe.recv())
        process.join()


def measure(root: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Return the figures of one run."""
    rows: dict[str, list[dict[str, Any]]] = {"alone": [], "beside guests": []}
    endings: Counter[str] = Counter()
    with fleet.running(root, 1) as running:
        images = small_server.images()
        expected = Expected.of(running.nodes[0], ["1.0"], images)

        def load() -> dict[str, Any]:
            with background_load.beside(**running.load(bodies=images, rate=RATE, timeout=DEADLINE)) as answers:
                threading.Event().wait(seconds)
            return figures(answers, expected)

        load()  # warm-up
        for _ in range(rounds):
            rows["alone"].append(load())
            with visiting(running, endings):
                rows["beside guests"].append(load())
    ratios = [guests["p99"] / alone["p99"] for alone, guests in zip(rows["alone"], rows["beside guests"], strict=True)]
    return {
        "guests": {"slow": CROWD.slow, "idle": CROWD.idle, "oversized_per_second": CROWD.oversized},
        "rate": RATE,
        "seconds": seconds,
        "rounds": rounds,
        "failed": sum(row["failed"] for kind in rows.values() for row in kind),
        "requests": sum(row["requests"] for kind in rows.values() for row in kind),
        "p99_milliseconds": {kind: [round(1000 * row["p99"], 1) for row in rows[kind]] for kind in rows},
        "p99_ratio": round(statistics.median(ratios), 3),
        "endings": dict(sorted(endings.items())),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the result; 1 where a good request failed, or waited too long."""
    parser = console.parser("guests", __doc__, "benchmarks.gateway")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    command_line = sys.argv[1:] if arguments is None else arguments
    origin = Origin("guests", command_line, code=CODE, package="benchmarks.gateway")
    row = measure(Path.cwd() / WORK, options.seconds, options.rounds)
    failed = row["failed"] > 0 or row["p99_ratio"] > GOAL
    return origin.publish({"goals": {"failed": 0, "p99_ratio": GOAL}, **row}, options.output, failed=failed)


if __name__ == "__main__":
    sys.exit(main())
