"""Load through `serving.client`, from threads of this process: what callers notice while servers and workers die."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.small_server import MODEL
from serving.client import Client

THREADS = 128  # more than requests under way


@dataclasses.dataclass(slots=True)
class ClientLoad:
    """The latencies in seconds from the scheduled sending, and the failures, each with its time (`time.monotonic`)."""

    latencies: list[float] = dataclasses.field(default_factory=list)
    errors: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    request_sent: threading.Event = dataclasses.field(default_factory=threading.Event)  # set by each request

    def figures(self) -> dict[str, Any]:
        """Return counts, and latencies in milliseconds."""
        values = np.array(self.latencies) * 1e3
        quantiles = {f"p{q}": round(float(np.quantile(values, q / 100)), 1) for q in (50, 99) if len(values)}
        return {
            "requests": len(values) + len(self.errors),
            "failed": len(self.errors),
            "errors": sorted({reason for _, reason in self.errors}),
            **quantiles,
            "slowest_ms": round(float(values.max(initial=0.0)), 1),
        }


@contextlib.contextmanager
def through_client(root: Path, images: Sequence[bytes], *, rate: float, deadline: float) -> Iterator[ClientLoad]:
    """Send predictions to the server of `root` at an even rate (requests/s) while the block runs.

    Each call has `deadline` seconds.
    """
    load, ended = ClientLoad(), threading.Event()

    def predict(client: Client, image: bytes, due: float) -> None:
        try:
            client.predict(image, MODEL)
            load.latencies.append(time.monotonic() - due)
        except Exception as error:  # an error that no caller expects is a failure too
            load.errors.append((time.monotonic(), f"{type(error).__name__}: {error}"))

    def send() -> None:
        with Client(root=root, deadline=deadline) as client, ThreadPoolExecutor(THREADS) as pool:
            start, number = time.monotonic(), 0
            while not ended.wait(max(0.0, start + number / rate - time.monotonic())):
                pool.submit(predict, client, images[number % len(images)], start + number / rate)
                load.request_sent.set()
                number += 1

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield load
    finally:
        ended.set()
        sender.join()
