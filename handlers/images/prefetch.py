"""Decoding the next images while the network computes on those before."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from handlers.images.decoder import Decoded
from handlers.images.decoding import Buffer
from handlers.lookahead import map_ahead

PART_IMAGES = 32  # images; smaller parts overlap more but lower throughput


class Prefetcher:
    """Decodes one batch ahead of the caller: in a thread, and on a GPU on a separate stream.

    A GPU decodes JPEG files in dedicated units, which would be idle while the network computes.

    Args:
        decode: gives the images of a batch, on `device`.
        device: a GPU; on a CPU the caller and the thread share the cores.
        part: images of a batch that is cut up, see `parts`.
    """

    def __init__(
        self, decode: Callable[[Sequence[Buffer]], list[Decoded]], device: torch.device, part: int = PART_IMAGES
    ) -> None:
        self.part = part
        self._decode = decode
        # The current device is a setting of each thread; its default is the first GPU.
        begin = partial(torch.cuda.set_device, device.index or 0) if device.type == "cuda" else None
        self._pool = ThreadPoolExecutor(1, "prefetch", begin)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def parts(self, images: Sequence[Buffer]) -> list[Sequence[Buffer]]:
        """Return a batch in parts of at most `part` images, each of which is decoded while the one before is used."""
        return [images[start : start + self.part] for start in range(0, len(images), self.part)]

    def __call__(self, batches: Iterable[Sequence[Buffer]]) -> Iterator[list[Decoded]]:
        """Yield each batch decoded. The device must have finished with the previous batch."""
        return map_ahead(self._pool, self._decoded, batches, 1)

    def wait_idle(self) -> None:
        """Wait until nothing is being decoded, so that its memory on the device is free again."""
        self._pool.submit(int).result()

    def _decoded(self, batch: Sequence[Buffer]) -> list[Decoded]:
        if self._stream is None:
            return self._decode(batch)
        with torch.cuda.stream(self._stream):
            decoded = self._decode(batch)
            self._stream.synchronize()  # the caller computes on another stream
        return decoded
