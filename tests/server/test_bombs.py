"""Decompression bombs are refused from their headers: nothing of them is decoded, and no worker grows."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import psutil
import pytest

from handlers.images.limits import DEFAULT_LIMITS
from tests.server import bombs
from tests.server.conftest import RunningServer
from tests.server.connections import Connections, Reply
from tests.until import until

MODEL = "digits"  # whose limits are the defaults
MOST_GROWTH = 32 * 2**20  # bytes
Maker = Callable[[int, int], bytes]

WHOLE = {
    bombs.png_of_bits: (65_536, 65_536),
    bombs.png_of_bytes: (65_536, 65_536),
    bombs.tiff_of_bits: (65_536, 65_536),
    bombs.bmp_of_runs: (65_536, 65_536),
    bombs.jpeg_of_means: (65_500, 65_500),  # libjpeg's own limit; the format's is 65,535
    bombs.webp_of_one_colour: (16_383, 16_383),
}
CLAIMS = {
    bombs.claim_png: (65_536, 65_536),
    bombs.claim_tiff: (65_536, 65_536),
    bombs.claim_bmp: (65_536, 65_536),
    bombs.claim_jpeg: (65_535, 65_535),
    bombs.claim_webp: (16_383, 16_383),
}
BARELY = (8192, 6208)  # pixels: the least multiple of 64 rows above the limit
CASES = [
    *((maker, size) for makers in (WHOLE, CLAIMS) for maker, most in makers.items() for size in (most, BARELY)),
    (bombs.claim_png, (2**31 - 1, 2**31 - 1)),
    (bombs.claim_bmp, (2**31 - 1, 2**31 - 1)),
    (bombs.claim_tiff, (2**32 - 1, 2**32 - 1)),
]


class Growth:
    """The most anonymous memory, in bytes, that a process gains while the block runs, looked at each millisecond."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self.most = 0

    def _anonymous(self) -> int:
        memory = self._process.memory_info()
        return int(memory.rss - memory.shared)

    def _watch(self, before: int) -> None:
        while not self._done.wait(0.001):
            self.most = max(self.most, self._anonymous() - before)

    def __enter__(self) -> "Growth":
        self._thread = threading.Thread(target=self._watch, args=(self._anonymous(),))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


@pytest.fixture
def connections(server: RunningServer) -> Iterator[Connections]:
    with Connections(server, MODEL, 4, timeout=30) as connections:
        yield connections


def refused(reply: Reply) -> bool:
    """Return whether a reply says that the image has too many pixels."""
    answer = json.loads(reply.body)
    return (reply.status, answer["code"], answer["type"]) == (413, 413, "TooLarge") and "pixels" in answer["message"]


@pytest.fixture(scope="module")
def worker(server: RunningServer) -> int:
    """Return the process of a worker that has read a small image of each kind, so that nothing is read a first time."""
    with Connections(server, MODEL, 1, timeout=30) as connections:
        for maker in WHOLE:
            for size in ((64, 64), (640, 640)):
                reply = connections.ask(maker(*size))
                assert reply.status == 200, f"{maker.__name__}: {reply.body!r}"
    (pid,) = server.pids(MODEL)
    return pid


@pytest.mark.parametrize(
    ("maker", "size"), CASES, ids=[f"{maker.__name__}-{width}x{height}" for maker, (width, height) in CASES]
)
def test_a_bomb_is_refused_from_its_header(
    server: RunningServer, connections: Connections, worker: int, maker: Maker, size: tuple[int, int]
) -> None:
    body = maker(*size)
    assert size[0] * size[1] > DEFAULT_LIMITS.max_pixels and len(body) < DEFAULT_LIMITS.max_bytes
    with Growth(worker) as growth:
        reply = connections.ask(body)
    assert refused(reply), reply
    assert growth.most < MOST_GROWTH
    assert server.pids(MODEL) == [worker]


def test_bombs_that_come_together_leave_nothing_behind(
    server: RunningServer, connections: Connections, worker: int
) -> None:
    bodies = [body for maker, size in CASES if len(body := maker(*size)) < 2**20]  # a body itself takes memory
    with Growth(worker) as growth:
        replies = list(connections.ask_all(bodies * 5))
    assert all(refused(reply) for reply in replies)
    assert growth.most < MOST_GROWTH
    assert server.pids(MODEL) == [worker]


def test_growth_is_seen() -> None:
    code = f"print(flush=True); input(); held = b'x' * {2 * MOST_GROWTH}; input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()
        with Growth(child.pid) as growth:
            child.stdin.write("\n")
            child.stdin.flush()
            until(lambda: growth.most > MOST_GROWTH, 30)
