"""Load in the background: requests at an even rate from a second process, until it is stopped."""

import asyncio
import contextlib
import dataclasses
import multiprocessing
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.traffic.open_loop import MAX_REQUESTS, Run, TimedAnswer

MAX_SECONDS = 4 * 3600.0  # seconds


class Load:
    """A running load; `stop` ends it and returns every answer."""

    def __init__(
        self, url: str, bodies: Sequence[bytes], headers: Mapping[str, str], *, rate: float, connections: int,
        timeout: float, count: int = MAX_REQUESTS, certificate: Path | None = None,
    ) -> None:  # fmt: skip
        """Start it: `rate` requests/s, or `count` requests in a closed loop if the rate is 0."""
        context = multiprocessing.get_context("spawn")
        self.pipe, child = context.Pipe()
        self.process = context.Process(
            target=_send,
            args=(child, url, list(bodies), dict(headers), rate, connections, timeout, count, certificate),
            daemon=True,
        )
        self.process.start()
        child.close()  # so that the death of the process is an EOFError
        self.pipe.recv()  # it starts to send

    @property
    def ended(self) -> bool:
        """Return whether all requests are answered."""
        return self.pipe.poll()

    def stop(self) -> list[TimedAnswer]:
        """End it and return the answers."""
        self.pipe.send("stop")
        answers: list[TimedAnswer] = self.pipe.recv()
        self.process.join()
        return answers


def _send(
    pipe: Connection, url: str, bodies: list[bytes], headers: dict[str, str], rate: float, connections: int,
    timeout: float, count: int, certificate: Path | None,
) -> None:  # fmt: skip
    times = [number / rate for number in range(round(rate * MAX_SECONDS))] if rate else [0.0] * count
    run = Run(url, bodies, times, headers, timeout, certificate)

    def wait() -> None:
        pipe.recv()
        run.stop()

    threading.Thread(target=wait, daemon=True).start()
    pipe.send("ready")
    asyncio.run(run.all(connections))
    # A closed loop has no schedule: its latency counts from the sending.
    answers = run.answers if rate else [dataclasses.replace(answer, due=answer.sent) for answer in run.answers]
    pipe.send(answers)


@contextlib.contextmanager
def beside(
    url: str, bodies: Sequence[bytes], headers: Mapping[str, str], *, rate: float, connections: int = 64,
    timeout: float = 5.0, certificate: Path | None = None,
) -> Iterator[list[TimedAnswer]]:  # fmt: skip
    """Load a server while the block runs; afterwards the list that it yields holds the answers."""
    received: list[TimedAnswer] = []
    load = Load(url, bodies, headers, rate=rate, connections=connections, timeout=timeout, certificate=certificate)
    try:
        yield received
    finally:
        received += load.stop()
