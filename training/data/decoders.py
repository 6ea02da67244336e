"""The processes that decode: each takes chunks of records, and writes pixels straight to their place on disk.

torch is imported in these processes only. The parent stays small and quick to start.
"""

import errno
import functools
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from handlers.images.limits import DEFAULT_LIMITS, Limits
from handlers.lookahead import map_ahead
from handlers.spec import PreprocessSpec
from training.data.arrays import RowFile
from training.data.index import Decoded, Pending
from training.data.records import DatasetError, Record

if TYPE_CHECKING:
    import torch

_SPARE_BYTES = 64 << 20  # index, labels and the file system's own needs

Task = TypeVar("Task")
Result = TypeVar("Result")


class PoolBroken(RuntimeError):
    """A process of the pool was killed or crashed."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all chunks of one run share; `images` None: decode to see that it can be, but keep no pixels."""

    raw: Path
    spec: PreprocessSpec
    rows: int
    images: Path | None
    moments: Path
    limits: Limits = DEFAULT_LIMITS

    def open_images(self) -> RowFile | None:
        """Open the file of pixels, uint8 (C, S, S) a row."""
        shape = (self.spec.channels, self.spec.image_size, self.spec.image_size)
        return None if self.images is None else RowFile(self.images, self.rows, shape, np.uint8)

    def open_moments(self) -> RowFile:
        """Open the file of sums of pixel values and of their squares, int64 (2, C) a row."""
        return RowFile(self.moments, self.rows, (2, self.spec.channels), np.int64)


def decode_and_resize(data: bytes, spec: PreprocessSpec, limits: Limits) -> "torch.Tensor":
    """Return uint8 (C, S, S), just as serving makes it.

    Raises:
        RequestError: the bytes are not an image that is read.
    """
    from handlers.images.decoding import decode

    resizer = _resizer(spec)
    image: torch.Tensor = resizer.resize(
        decode(data, colour=spec.colour, limits=limits, smallest=resizer.shortest_side)
    )
    return image


@dataclass(frozen=True, slots=True)
class Row:
    """The result for one record; `image` uint8 (C, S, S) if it is stored, `moments` int64 (2, C) if it decodes."""

    row: int
    decoded: Decoded
    image: npt.NDArray[np.uint8] | None = None
    moments: npt.NDArray[np.int64] | None = None


def run_chunk(job: Job, chunk: list[Pending]) -> list[Decoded]:
    """Read, hash, decode and resize a chunk of records, and write each to its row.

    Raises:
        DatasetError: a file cannot be read.
        OSError: a row cannot be written, as on a full disk.
    """
    return write_rows(job, decoded_rows(job, chunk))


def decoded_rows(job: Job, chunk: list[Pending]) -> Iterator[Row]:
    """Read, hash, decode and resize a chunk of records.

    Raises:
        DatasetError: a file cannot be read.
    """
    from handlers.errors import RequestError

    for record in chunk:
        data = read_bytes(job.raw, record)
        digest = hashlib.sha256(data).digest()
        try:
            image = decode_and_resize(data, job.spec, job.limits).numpy()
        except RequestError as error:
            yield Row(record.row, Decoded(record.number, digest, len(data), str(error)))
            continue
        flat = image.reshape(len(image), -1).astype(np.int64)
        moments = np.stack([flat.sum(1), np.square(flat).sum(1)])
        stored = image if job.images is not None else None
        yield Row(record.row, Decoded(record.number, digest, len(data), None), stored, moments)


def write_rows(job: Job, rows: Iterable[Row]) -> list[Decoded]:
    """Write decoded images to their rows.

    Raises:
        OSError: a row cannot be written, as on a full disk.
    """
    images, moments = _files(job)
    results = []
    for row in rows:
        if row.moments is not None:
            moments.write(row.row, row.moments)
        if row.image is not None and images is not None:
            images.write(row.row, row.image)
        results.append(row.decoded)
    return results


def chunk_of_node(job: Job, chunk: list[Pending]) -> list[Row]:
    """Return the rows of a chunk that a node of a cluster decodes: the command writes them, since several machines that
    write pages of one file of a network file system undo each other's work.
    """
    return list(decoded_rows(job, chunk))


def require_space(folder: Path, needed: int) -> None:
    """Refuse to begin what will not fit.

    Raises:
        OSError: ENOSPC, with the bytes needed and free in gigabytes (1e9).
    """
    needed += _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            errno.ENOSPC, f"{needed / 1e9:.2f} GB are needed in {folder.parent}, {free / 1e9:.2f} GB are free"
        )


def read_bytes(raw: Path, record: Pending | Record) -> bytes:
    """Return the encoded bytes of a record.

    Raises:
        DatasetError: the file cannot be read, or ends before the record does.
    """
    whole = Record(id="", split="train", label=None, path=record.path, offset=record.offset, length=record.length)
    try:
        data = whole.read(raw)
    except OSError as error:
        raise DatasetError(f"{raw / record.path}: {error.strerror}; fix it, or remove it from the data set") from error
    if record.length is not None and len(data) != record.length:
        raise DatasetError(f"{raw / record.path}: ends inside a record; fetch this file again")
    return data


def start_method(*modules: str) -> "multiprocessing.context.ForkServerContext":
    """Return how processes that decode are started: forked from a server that has imported torch, and `modules`.

    So torch is imported once, and is in memory once; and nothing of a parent that has threads or a GPU is copied.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "handlers.images.decoding", "handlers.preprocessing", *modules])
    return context


class Pool:
    """A pool of `processes` with one thread each, made when the first chunk comes."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._executor = ProcessPoolExecutor(processes, start_method(), initializer=_start)

    def warm(self) -> None:
        """Wait until the processes have started."""
        list(self.map(os.getpgid, [0] * self.processes))

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the results in order; only a few tasks are taken ahead, so that a long list needs no memory.

        Raises:
            PoolBroken: a process was killed or crashed. Errors of `function` are passed on.
        """
        try:
            yield from map_ahead(self._executor, function, tasks, 3 * self.processes)
        except BrokenProcessPool as error:
            raise PoolBroken(
                "a decoding process was killed, probably because memory ran out;"
                " run the same command again with fewer processes to resume"
            ) from error

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


def _start() -> None:
    import torch

    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:  # a parent that is killed cannot end its pool, which would wait for ever
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


@functools.lru_cache(maxsize=1)
def _files(job: Job) -> tuple[RowFile | None, RowFile]:
    return job.open_images(), job.open_moments()


@functools.lru_cache(maxsize=1)
def _resizer(spec: PreprocessSpec) -> Any:
    from handlers.preprocessing import Preprocess

    return Preprocess(spec)
