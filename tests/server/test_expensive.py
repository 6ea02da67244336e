"""Requests that take long, from connections that never pause: good requests beside them are answered, and in time.

`python -m benchmarks.expensive` is the same for minutes.
"""

import collections
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.crashes import watcher
from benchmarks.expensive import BODIES, CONNECTIONS, RATE
from serving.client import Client
from tests.server.conftest import RunningServer, picture
from tests.server.connections import Connections
from tests.until import until

MODEL, SECONDS, SLOWEST = "shapes", 4.0, 3.0  # of the good requests' 99th percentile
WANTED = {"bombs": {413}, "many": {200, 503}}


@pytest.fixture
def watched(server: RunningServer) -> Iterator[Path]:
    """Run the watcher of the server while a test runs; return what it writes down."""
    log = server.root / "logs" / "watch.log"
    log.unlink(missing_ok=True)
    with watcher(server.root):
        until(log.exists, 30)
        yield log


@pytest.mark.parametrize("kind", WANTED)
def test_good_requests_are_answered_beside_expensive_ones(server: RunningServer, watched: Path, kind: str) -> None:
    content, ended = BODIES[kind](), threading.Event()
    statuses = collections.Counter[int]()
    before = server.pids(MODEL)

    def ask_for_good(client: Client, due: float) -> float:
        assert client.predict(picture(), MODEL).label
        return time.monotonic() - due

    def never_pause(connections: Connections) -> None:
        while not ended.is_set():
            statuses[connections.ask(content).status] += 1

    with (
        Client(root=server.root, deadline=20) as client,
        Connections(server, MODEL, CONNECTIONS, timeout=60) as connections,
        ThreadPoolExecutor(CONNECTIONS + 64) as pool,
    ):
        rude = [pool.submit(never_pause, connections) for _ in range(CONNECTIONS)]
        began = time.monotonic()
        dues = [began + number / RATE for number in range(int(SECONDS * RATE))]
        good = []
        for due in dues:
            ended.wait(max(0.0, due - time.monotonic()))
            good.append(pool.submit(ask_for_good, client, due))
        try:
            seconds = sorted(each.result() for each in good)
        finally:
            ended.set()
        for each in rude:
            each.result()
    assert seconds[int(0.99 * len(seconds))] < SLOWEST, f"the slowest took {seconds[-1]:.1f} s"
    assert set(statuses) == WANTED[kind] and server.pids(MODEL) == before
    assert " WARNING " not in watched.read_text() and " ERROR " not in watched.read_text()
