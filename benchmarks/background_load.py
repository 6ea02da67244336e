"""Load beside other work: requests at an even rate from a process of their own, until they are told to end."""

import asyncio
import contextlib
import dataclasses
import multiprocessing
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection

from benchmarks.open_loop import MOST, Answer, Run

LONGEST = 4 * 3600.0  # seconds


class Load:
    """A load that runs; `stop` ends it and returns every answer."""

    def __init__(
        self, url: str, bodies: Sequence[bytes], headers: Mapping[str, str], *, rate: float, connections: int,
        timeout: float, count: int = MOST,
    ) -> None:  # fmt: skip
        """Start it: `rate` requests/s, or `count` one after the other on the connections where that is 0."""
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        self.pipe = ours
        self.process = multiprocessing.get_context("spawn").Process(
            target=_send,
            args=(theirs, url, list(bodies), dict(headers), rate, connections, timeout, count),
            daemon=True,
        )
        self.process.start()
        theirs.close()  # so that one that dies is an EOFError here
        ours.recv()  # it sends now

    @property
    def ended(self) -> bool:
        """Return whether everything was sent."""
        return self.pipe.poll()

    def stop(self) -> tuple[list[Answer], list[float]]:
        """End it; return the answers, and the seconds by which requests left late on free connections."""
        self.pipe.send("stop")
        answers, lateness = self.pipe.recv()
        self.process.join()
        return answers, lateness


def _send(
    pipe: Connection, url: str, bodies: list[bytes], headers: dict[str, str], rate: float, connections: int,
    timeout: float, count: int,
) -> None:  # fmt: skip
    times = [number / rate for number in range(round(rate * LONGEST))] if rate else [0.0] * count
    run = Run(url, bodies, times, headers, timeout)

    def wait() -> None:
        pipe.recv()
        run.stop()

    threading.Thread(target=wait, daemon=True).start()
    pipe.send("ready")
    asyncio.run(run.all(connections))
    # A closed loop has no schedule: what counts is the time since the sending.
    answers = run.answers if rate else [dataclasses.replace(each, due=each.sent) for each in run.answers]
    pipe.send((answers, run.lateness))


@contextlib.contextmanager
def beside(
    url: str, bodies: Sequence[bytes], headers: Mapping[str, str], *, rate: float, connections: int = 64,
    timeout: float = 5.0,
) -> Iterator[list[Answer]]:  # fmt: skip
    """Load a server while the block runs; the list that is given holds the answers once it has ended."""
    found: list[Answer] = []
    load = Load(url, bodies, headers, rate=rate, connections=connections, timeout=timeout)
    try:
        yield found
    finally:
        answers, _ = load.stop()
        found += answers
