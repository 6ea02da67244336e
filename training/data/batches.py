"""Batches of a prepared data set: uint8 images gathered ahead of the network by a thread."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from handlers.lookahead import map_ahead

Batch = tuple[torch.Tensor, torch.Tensor]
Rows = npt.NDArray[np.int64]
SENT = 4096  # images that are sent to a GPU at once


@dataclasses.dataclass(frozen=True)
class Joined:
    """Some rows of a data set and of its transformed copies, read as one: row i is the i-th of them."""

    parts: tuple[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], Rows], ...]

    def __len__(self) -> int:
        return sum(len(rows) for _, _, rows in self.parts)

    def take(self, positions: Rows) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Return copies of the images and labels of ascending `positions`."""
        images, labels, start = [], [], 0
        for pixels, classes, rows in self.parts:
            within = positions[(positions >= start) & (positions < start + len(rows))] - start
            images.append(pixels[rows[within]])
            labels.append(np.asarray(classes[rows[within]], dtype=np.int64))
            start += len(rows)
        return np.concatenate(images), np.concatenate(labels)


class Batches:
    """Iterates over batches (uint8 (B, C, S, S), int64 (B,)) of `data`.

    With `seed` the rows come in a new order each epoch, which depends on the seed and on the value of `epoch()` when
    the iteration begins, and on nothing else; a last batch that is not full is dropped, unless it is the only one.
    Without `seed` all rows come in the order given. `share` returns this process's rows of a batch, where
    several processes train.
    """

    def __init__(
        self,
        data: Joined,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: Callable[[], int] = lambda: 0,
        prefetch: int = 3,
        pin: bool = False,
        share: Callable[[Rows], Rows] = lambda rows: rows,
    ) -> None:
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch
        self.prefetch = max(1, prefetch)
        self.pin = pin
        self.share = share

    def __len__(self) -> int:
        if self.seed is not None:
            return max(1, len(self.data) // self.batch_size)
        return -(-len(self.data) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing happens, and no epoch is asked for, before the first batch is wanted.
        order = self._order()
        chunks = [self.share(order[i * self.batch_size : (i + 1) * self.batch_size]) for i in range(len(self))]
        with ThreadPoolExecutor(1, "batches") as pool:
            yield from map_ahead(pool, self._gather, chunks, self.prefetch)

    def _order(self) -> Rows:
        if self.seed is None:
            return np.arange(len(self.data))
        return np.random.default_rng((self.seed, self.epoch())).permutation(len(self.data))

    def _gather(self, rows: Rows) -> Batch:
        # Ascending rows walk forward through the file, and their order within a batch means nothing to the network.
        pixels, classes = self.data.take(np.sort(rows))
        images, labels = torch.from_numpy(pixels), torch.from_numpy(classes)
        return (images.pin_memory(), labels.pin_memory()) if self.pin else (images, labels)


class DeviceBatches(Batches):
    """The same batches in the same order, of images that all lie in a GPU's memory: nothing is sent while training."""

    def __init__(
        self,
        data: Joined,
        batch_size: int,
        device: torch.device,
        *,
        seed: int,
        epoch: Callable[[], int],
        share: Callable[[Rows], Rows] = lambda rows: rows,
    ) -> None:
        super().__init__(data, batch_size, seed=seed, epoch=epoch, share=share)
        first, _ = data.take(np.arange(min(1, len(data))))
        self._images = torch.empty((len(data), *first.shape[1:]), dtype=torch.uint8, device=device)
        self._labels = torch.empty(len(data), dtype=torch.int64, device=device)
        for start in range(0, len(data), SENT):
            part = slice(start, min(start + SENT, len(data)))
            pixels, classes = data.take(np.arange(part.start, part.stop))
            self._images[part] = torch.from_numpy(pixels).to(device)
            self._labels[part] = torch.from_numpy(classes).to(device)

    def __iter__(self) -> Iterator[Batch]:
        order, size = self._order(), self.batch_size
        batches = [np.sort(self.share(order[number * size : (number + 1) * size])) for number in range(len(self))]
        # Copy all indices up front: a copy between steps would synchronise with the GPU.
        rows = torch.from_numpy(np.concatenate(batches)).to(self._images.device)
        for rows_of_batch in torch.split(rows, [len(batch) for batch in batches]):
            yield self._images[rows_of_batch], self._labels[rows_of_batch]

    @staticmethod
    def fits(data: Joined, free: int) -> bool:
        """Return whether the images take at most half of the free bytes; the network needs the other half."""
        first, _ = data.take(np.arange(min(1, len(data))))
        return 2 * len(data) * first.nbytes <= free
