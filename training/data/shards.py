"""Data sets too large to keep decoded: the original bytes in tar files of webdataset, decoded while they stream by.

The shards of train, validation and test are written in a seeded random order, so that reading them one after the other
is already a shuffle; reading shuffles the order of the shards and, within a buffer, that of the images.
"""

import dataclasses
import functools
import itertools
import json
import random
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from rich.console import Console
from torch.utils.data import DataLoader, IterableDataset

from handlers import atomic
from handlers.images.limits import UNLIMITED
from handlers.machine import cores
from handlers.spec import PreprocessSpec
from training.data import splits, store
from training.data.decoders import decode_and_resize, read_bytes, require_space, start_method
from training.data.progress import progress
from training.data.recipe import digest
from training.data.records import DatasetError
from training.data.splits import Rows, SplitSpec

Batch = tuple[torch.Tensor, torch.Tensor]

DOCUMENT = "shards.json"
PLACES = "places.npy"
_SHUFFLE_BUFFER = 2000
_MOST_AT_ONCE = 64  # images of a message
_SHARD_BYTES = 5e8  # at most
_TAR_BYTES = 2560  # two headers, the label and the padding of an image in a tar file


def ensure(
    folder: Path,
    spec: SplitSpec,
    *,
    seed: int,
    console: Console,
    images_per_shard: int = 4_000,
) -> None:
    """Make the prepared data set in `folder` hold shards for this split, unless it does.

    A process that was killed leaves its whole shards to the next one.

    Raises:
        DatasetError: a raw file cannot be read any more.
        OSError: the disk is full.
        ValueError: too few images for this split.
    """
    dataset = store.PreparedDataset.open(folder)
    images = min(images_per_shard, max(1, int(_SHARD_BYTES * len(dataset) / max(1, dataset.encoded_bytes))))
    split = {**dataclasses.asdict(spec), "format": splits.FORMAT}
    key = digest({"store": dataset.content_key, "split": split, "seed": seed, "images": images})
    target = folder / store.SHARDS
    if store.key_of(target / DOCUMENT) == key:
        return
    plan = _plan(dataset, spec, seed, images)
    partial = target.with_name(f"{target.name}.partial")
    _begin(partial, key)
    there = sum(path.stat().st_size for path in partial.glob("*.tar"))
    require_space(partial, max(0, dataset.encoded_bytes + len(dataset) * _TAR_BYTES - there))
    places = np.full(len(dataset), -1, np.int32)
    with progress(console, "writing shards", sum(map(len, plan.values()))) as advance:
        for number, (name, rows) in enumerate(plan.items()):
            places[rows] = number
            if (partial / name).is_file():  # from a process that was killed
                advance(len(rows))
            else:
                _write(partial / name, dataset, rows, advance)
    np.save(partial / PLACES, places)
    document = {"key": key, "split": dataclasses.asdict(spec), "seed": seed, "shards": list(plan)}
    (partial / DOCUMENT).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    atomic.replace_folder(partial, target)


def _plan(dataset: store.PreparedDataset, spec: SplitSpec, seed: int, images: int) -> dict[str, Rows]:
    """Return the rows of each shard, in their order, by its name."""
    split = dataset.split(spec)
    plan: dict[str, Rows] = {}
    for side, rows in {"train": split.train, "validation": split.validation, "test": split.test}.items():
        order = np.random.default_rng(seed).permutation(rows)
        for number, start in enumerate(range(0, len(order), images)):
            plan[f"{side}-{number:06d}.tar"] = order[start : start + images]
    return plan


def _begin(partial: Path, key: str) -> None:
    """Make the folder that shards are written in; keep the shards of the same key."""
    mark = partial / "key"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != key:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        mark.write_text(key, encoding="utf-8")


def _write(path: Path, dataset: store.PreparedDataset, rows: Rows, advance: Callable[[int], None]) -> None:
    """Write one shard, whole or not at all."""
    with atomic.replacing(path) as part, webdataset.TarWriter(str(part), encoder=False, mtime=0) as writer:
        for row in rows:
            data = read_bytes(dataset.raw, dataset.record(row))
            writer.write({"__key__": f"{row:09d}", "image": data, "cls": b"%d" % dataset.labels[row]})
            advance(1)


def encoded(dataset: store.PreparedDataset, row: int) -> bytes:
    """Return an image as it is encoded, out of its shard.

    Raises:
        DatasetError: it is in none.
    """
    folder = dataset.folder / store.SHARDS
    try:
        name = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))["shards"][np.load(folder / PLACES)[row]]
        with tarfile.open(folder / name) as shard:
            member = shard.extractfile(f"{row:09d}.image")
            assert member is not None  # it is a file
            return member.read()
    except (OSError, KeyError, tarfile.TarError) as error:
        raise DatasetError(f"{folder}: image {row} is in no shard ({error}); prepare the data set again") from error


class EncodedBatches:
    """Iterates over batches (uint8 (B, C, S, S), int64 (B,)) of `rows`, decoded by `workers` processes on the way.

    With `seed` the order is a new one each epoch, which depends on the seed, on what `epoch()` says when the iteration
    begins and on `workers`; a last batch that is not full is left out unless it is the only one. Without `seed` all
    rows come, always in the same order, which is the shards' and not that of `rows`. An epoch has at most `limit`
    batches.

    Raises:
        DatasetError: there are no shards, or some of the rows are in none of them.
    """

    def __init__(
        self,
        data: store.PreparedDataset,
        rows: Rows,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: Callable[[], int] = lambda: 0,
        workers: int | None = None,
        pin: bool = False,
        limit: int | None = None,
    ) -> None:
        folder = data.folder / store.SHARDS
        try:
            names: list[str] = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))["shards"]
        except FileNotFoundError:
            raise DatasetError(f"{folder}: no shards; prepare this data set again to write them") from None
        places = np.load(folder / PLACES)[rows]
        if (places < 0).any():
            raise DatasetError(f"{folder}: {(places < 0).sum()} of the images are in no shard; prepare with this split")
        self.files = [str(folder / names[place]) for place in np.unique(places)]
        self.mask = np.zeros(len(data), bool)
        self.mask[rows] = True
        self.spec = data.preprocess(*_neutral(data))
        self.rows, self.batch_size, self.seed, self.epoch, self.pin = rows, batch_size, seed, epoch, pin
        self.workers, self.limit = min(workers or cores(), max(1, len(self.files))), limit

    def __len__(self) -> int:
        if self.seed is not None:
            count = max(1, len(self.rows) // self.batch_size)
            return count if self.limit is None else min(count, self.limit)
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = None if self.seed is None else self.seed * 1_000_003 + self.epoch()
        at_once = min(self.batch_size, _MOST_AT_ONCE)
        stream = _Stream(self.files, self.mask, self.spec, order, at_once)
        context = start_method(__name__)
        loader = DataLoader(
            stream, None, num_workers=self.workers, multiprocessing_context=context, pin_memory=self.pin
        )
        yield from itertools.islice(_whole(loader, self.batch_size), len(self))


def _whole(parts: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Yield batches of `size` images, the last of fewer. Parts of that size pass as they are: joining takes time."""
    waiting: list[Batch] = []
    count = 0
    for part in parts:
        if len(part[1]) == size:
            yield part
            continue
        waiting.append(part)
        count += len(part[1])
        while count >= size:
            images, labels = _joined(waiting)
            yield images[:size], labels[:size]
            waiting, count = [(images[size:], labels[size:])], count - size
    if count:
        yield _joined(waiting)


def _joined(parts: Sequence[Batch]) -> Batch:
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


class _Stream(IterableDataset[Batch]):
    """One worker's share of the shards, in an order that `order` decides (None: file order)."""

    def __init__(
        self, files: list[str], mask: np.ndarray[Any, Any], spec: PreprocessSpec, order: int | None, at_once: int
    ) -> None:
        self.files, self.mask, self.spec, self.order, self.at_once = files, mask, spec, order, at_once

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        files = list(self.files)
        stages: list[Any] = [webdataset.split_by_worker, webdataset.tarfile_to_samples()]
        stages.append(webdataset.select(self._is_wanted))
        if self.order is not None:
            random.Random(self.order).shuffle(files)
            stages.append(webdataset.shuffle(_SHUFFLE_BUFFER, rng=random.Random(self.order)))
        stages.append(webdataset.map(functools.partial(_decode, self.spec)))
        # Many images a message: to receive one takes as long as to decode ten small ones.
        stages.append(webdataset.batched(self.at_once, collation_fn=_collate))
        yield from webdataset.DataPipeline(webdataset.SimpleShardList(files), *stages)

    def _is_wanted(self, sample: dict[str, Any]) -> bool:
        return bool(self.mask[int(sample["__key__"])])


def _decode(spec: PreprocessSpec, sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
    return decode_and_resize(sample["image"], spec, UNLIMITED), int(sample["cls"])


def _collate(samples: list[tuple[torch.Tensor, int]]) -> Batch:
    return torch.stack([image for image, _ in samples]), torch.tensor([label for _, label in samples])


def _neutral(data: store.PreparedDataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    values = (0.5,) * (1 if data.colour == "grey" else 3)
    return values, values
