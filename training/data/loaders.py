"""Loaders of prepared images: for training, validation, and the calibration of int8."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from handlers.images.limits import UNLIMITED
from handlers.machine import cores
from training.data.batches import Batches, DeviceBatches, Joined
from training.data.decoders import decode_and_resize, read_bytes
from training.data.records import DatasetError, Record
from training.data.shards import EncodedBatches
from training.data.splits import Rows, Split
from training.data.store import PreparedDataset
from training.quantization import CALIBRATION_IMAGES


def training_batches(
    data: Joined,
    trainer: Mapping[str, Any],
    device: torch.device,
    *,
    seed: int,
    epoch: Callable[[], int],
    share: Callable[[Rows], Rows] = lambda rows: rows,
) -> Batches:
    """Return the loader of training images: on a GPU they are kept in its memory if they fit."""
    size = trainer["batch_size"]
    pin = device.type == "cuda"
    if pin and DeviceBatches.fits(data, torch.cuda.mem_get_info(device)[0]):
        return DeviceBatches(data, size, device, seed=seed, epoch=epoch, share=share)
    return Batches(data, size, prefetch=trainer["prefetch"], pin=pin, seed=seed, epoch=epoch, share=share)


def validation_batches(data: PreparedDataset, split: Split, batch_size: int, *, pin: bool = False) -> Any:
    """Return the loader of the validation images, in order."""
    if data.encoded:
        return EncodedBatches(data, split.validation, 2 * batch_size, pin=pin)
    return Batches(Joined(((data.images, data.labels, split.validation),)), 2 * batch_size, pin=pin)


def ordered_images(data: PreparedDataset, rows: Rows, size: int) -> Iterator[torch.Tensor]:
    """Yield the images of `rows` in this order, `size` at a time, as uint8 (B, C, S, S)."""
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    if not data.encoded:
        yield from (torch.from_numpy(data.images[part]) for part in parts)
        return
    neutral = (0.5,) * (1 if data.colour == "grey" else 3)
    spec = data.preprocess(neutral, neutral)

    def image(record: Record, digest: bytes) -> torch.Tensor:
        encoded = read_bytes(data.raw, record)
        if hashlib.sha256(encoded).digest() != digest:
            raise DatasetError(f"{data.raw / record.path}: changed since it was prepared; prepare the data set again")
        return decode_and_resize(encoded, spec, UNLIMITED)

    with ThreadPoolExecutor(cores()) as pool:
        for part in parts:
            records = [data.record(int(row)) for row in part]
            yield torch.stack(list(pool.map(image, records, [data.sha256(int(row)) for row in part])))


def calibration_rows(split: Split) -> Rows:
    """Return up to `CALIBRATION_IMAGES` training rows, spread over the classes' order."""
    return split.train[:: max(1, len(split.train) // CALIBRATION_IMAGES)][:CALIBRATION_IMAGES]


def calibration_batches(data: PreparedDataset, split: Split) -> Iterator[torch.Tensor]:
    """Yield up to `CALIBRATION_IMAGES` training images, spread over the classes' order, as uint8 (B, C, S, S)."""
    rows = calibration_rows(split)
    batches = (
        EncodedBatches(data, rows, 32) if data.encoded else Batches(Joined(((data.images, data.labels, rows),)), 32)
    )
    for pixels, _ in batches:
        yield pixels
