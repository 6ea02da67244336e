"""Load through `serving.client`, from threads of this process: what a caller sees while servers and workers die."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.small_server import MODEL
from serving.client import Client


@dataclasses.dataclass(slots=True)
class Seen:
    """What came of the requests: their latencies in seconds from the scheduled sending, and the failures."""

    latencies: list[float] = dataclasses.field(default_factory=list)
    errors: list[tuple[float, str]] = dataclasses.field(default_factory=list)  # when (time.monotonic), and why
    sent: threading.Event = dataclasses.field(default_factory=threading.Event)  # set as each request leaves

    def figures(self) -> dict[str, Any]:
        """Return counts, and latencies in milliseconds."""
        values = np.array(self.latencies) * 1e3
        quantiles = {f"p{q}": round(float(np.quantile(values, q / 100)), 1) for q in (50, 99) if len(values)}
        return {
            "requests": len(values) + len(self.errors),
            "failed": len(self.errors),
            "errors": sorted({why for _, why in self.errors}),
            **quantiles,
            "slowest_ms": round(float(values.max(initial=0.0)), 1),
        }


@contextlib.contextmanager
def through_client(
    root: Path, images: Sequence[bytes], *, rate: float, deadline: float, threads: int = 128
) -> Iterator[Seen]:
    """Ask the server of `root` at an even rate (requests/s) while the block runs; each call has `deadline` seconds."""
    seen, ended = Seen(), threading.Event()

    def ask(client: Client, image: bytes, due: float) -> None:
        try:
            client.predict(image, MODEL)
            seen.latencies.append(time.monotonic() - due)
        except Exception as error:  # what no caller expects is a failure too
            seen.errors.append((time.monotonic(), f"{type(error).__name__}: {error}"))

    def send() -> None:
        with Client(root=root, deadline=deadline) as client, ThreadPoolExecutor(threads) as pool:
            began, number = time.monotonic(), 0
            while not ended.wait(max(0.0, began + number / rate - time.monotonic())):
                pool.submit(ask, client, images[number % len(images)], began + number / rate)
                seen.sent.set()
                number += 1

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield seen
    finally:
        ended.set()
        sender.join()
