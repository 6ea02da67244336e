"""Encoded images to images of the network's size, many at once, on the CPU."""

import contextlib
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from handlers import tolerances
from handlers.errors import Busy, RequestError
from handlers.images.costs import Cost, cost_of
from handlers.images.decoding import Buffer, OnHeader, decode
from handlers.images.limits import Limits
from handlers.preprocessing import Preprocess

Decoded = torch.Tensor | RequestError
HEAVY_PIXELS = 2**24  # up to 16 bytes of memory each while they are decoded (measured: WebP)


class Decoder:
    """Decodes and resizes.

    Args:
        preprocess: says to which size, on a CPU.
        limits: of one encoded image.
        threads: that decode; None decodes with the one that asks.
    """

    whole, tolerance = False, tolerances.PIXELS  # whether a JPEG is always decoded in full; of golden images

    def __init__(self, preprocess: Preprocess, limits: Limits, threads: int | None) -> None:
        self.preprocess, self.limits = preprocess, limits
        self._pool = _decoders(threads) if threads and threads > 1 else None
        self._heavy = threading.RLock()  # re-entrant: `on_header` may be called twice for one image
        self._left = math.inf  # seconds that threads may still take
        self._counting = threading.Lock()

    def cost(self, image: Buffer) -> Cost:
        """Return the cost of an image; raises a RequestError for an error in its header."""
        return cost_of(image, self.limits)

    def allow(self, seconds: float) -> None:
        """Limit the processor seconds of decoding from now on: images that come later are Busy."""
        self._left = seconds

    def decode(self, images: Sequence[Buffer]) -> list[Decoded]:
        """Return, for each encoded image, uint8 of shape (C, S, S), or its error."""
        # Decoders and torch let go of the interpreter's lock: threads decode side by side.
        if self._pool is None or len(images) < 2:
            return [self._decode(image) for image in images]
        return list(self._pool.map(self._decode, images))

    def _decode(self, image: Buffer) -> Decoded:
        if self._left <= 0:
            return Busy("the images of this batch take longer to decode than a worker may")
        start_time = time.thread_time()
        try:
            return self._in_turn(image)
        finally:
            with self._counting:
                self._left -= time.thread_time() - start_time

    def _in_turn(self, image: Buffer) -> Decoded:
        with contextlib.ExitStack() as stack:

            def on_header(width: int, height: int) -> None:
                # The largest images one after the other: each of them may take most of a worker's memory.
                if width * height > HEAVY_PIXELS:
                    stack.enter_context(self._heavy)

            return self._decoded(image, on_header)

    def _decoded(self, image: Buffer, on_header: OnHeader) -> Decoded:
        try:
            return self.preprocess.resize(
                decode(
                    image,
                    colour=self.preprocess.spec.colour,
                    limits=self.limits,
                    smallest=self.preprocess.shortest_side,
                    on_header=on_header,
                )
            )
        except RequestError as error:
            # Without its traceback, which would keep the frames and the bytes of the failed decoding in memory.
            return error.with_traceback(None)


def _decoders(threads: int) -> ThreadPoolExecutor:
    """Return started threads that decode; torch computes single-threaded in each."""
    everyone = threading.Barrier(threads)

    def start() -> None:
        torch.set_num_threads(1)
        everyone.wait()

    pool = ThreadPoolExecutor(threads, "decode", initializer=start)
    # Each of these finds no idle thread and starts another; the last answer comes when all of them have started.
    for started in [pool.submit(int) for _ in range(threads)]:
        started.result()
    torch.set_num_threads(threads)  # the setting of a thread also applies to threads that start later
    return pool
