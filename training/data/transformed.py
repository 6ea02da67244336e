"""`augment=n`: n transformed copies of each training image, written to the store with their lineage.

The usual way is to augment on the fly, in training. Copies on disk are for looking at, and for training elsewhere. They
are made after splitting, from rows that train only: Kornia's random affine map, its colour module (hue and saturation;
not for grey images) and its enhance module (gamma, contrast, brightness, sharpness). Nothing is mirrored, since that
changes some labels.

    transformed/
        images.npy          uint8 (M, C, S, S), the n copies of one image beside each other
        sources.npy         int64 (M,): the row that each was made from
        lineage.csv         each copy's source and the parameters of its operations
        contact_sheet.png   some sources, each with its copies
        transformed.json    the key that says what made them
"""

import csv
import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from rich.console import Console

from handlers.atomic import replace_folder
from training.data import splits, store
from training.data.arrays import RowFile
from training.data.decoders import Pool, require_space
from training.data.progress import progress
from training.data.recipe import digest
from training.data.records import DatasetError
from training.data.splits import Rows, SplitSpec

if TYPE_CHECKING:
    import torch

DOCUMENT = "transformed.json"
LINEAGE = "lineage.csv"
SHEET = "contact_sheet.png"
_SOURCES_AT_ONCE = 32
_SHEET_ROWS, _SHEET_COLUMNS = 8, 8

# Degrees and shares of the side; then factors, and for hue a share of the colour circle.
_AFFINE: dict[str, Any] = {"degrees": 15.0, "translate": (0.1, 0.1), "scale": (0.9, 1.1)}
_RANGES = {
    "hue": (-0.03, 0.03),
    "saturation": (0.7, 1.3),
    "gamma": (0.8, 1.25),
    "contrast": (0.8, 1.2),
    "brightness": (0.85, 1.15),
    "sharpness": (0.0, 1.0),
}
PARAMETERS = ("angle", "translate_x", "translate_y", "scale", *_RANGES)


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """Values that all chunks share: paths of the images and of their copies, and the random seed."""

    images: Path
    copies: Path
    shape: tuple[int, int, int]
    total: int
    number: int
    seed: int


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """Source rows whose copies begin at row `first` of the copies."""

    first: int
    sources: tuple[int, ...]


def ensure(folder: Path, spec: SplitSpec, number: int, *, seed: int, console: Console, processes: int = 1) -> None:
    """Make the prepared data set in `folder` hold `number` copies of each training image of this split, and no others.

    Raises:
        DatasetError: the data set is kept encoded.
        OSError: the disk is full.
        ValueError: too few images for this split.
    """
    target = folder / store.TRANSFORMED
    if number == 0:
        if target.exists():
            console.print(f"removing the transformed copies in {target}, since augment=0")
            shutil.rmtree(target)
        return
    dataset = store.PreparedDataset.open(folder)
    if dataset.encoded:
        raise DatasetError(f"augment={number}: {folder} is kept encoded; set augment=0, or dataset.store=decoded")
    key = _key(dataset, spec, number, seed)
    if store.key_of(target / DOCUMENT) == key:
        return
    unfinished = target.with_name(f"{target.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    sources = dataset.split(spec).train
    job = _write(dataset, sources, number, seed, unfinished, console, processes)
    _contact_sheet(dataset.images, np.load(job.copies, mmap_mode="r"), sources, number, unfinished / SHEET)
    document = {"key": key, "split": dataclasses.asdict(spec), "copies": number, "seed": seed, "images": job.total}
    (unfinished / DOCUMENT).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    replace_folder(unfinished, target)
    console.print(f"{target}: {job.total:,} transformed copies; {SHEET} shows some")


def _write(
    dataset: store.PreparedDataset,
    sources: Rows,
    number: int,
    seed: int,
    folder: Path,
    console: Console,
    processes: int,
) -> Job:
    total = len(sources) * number
    shape = cast(tuple[int, int, int], dataset.images.shape[1:])
    job = Job(dataset.folder / store.IMAGES, folder / store.IMAGES, shape, total, number, seed)
    with RowFile(job.copies, total, shape, np.uint8) as copies:
        require_space(folder, total * copies.row_bytes)
        copies.allocate()
    np.save(folder / store.SOURCES, np.repeat(sources, number))
    with (
        open(folder / LINEAGE, "w", newline="", encoding="utf-8") as file,
        Pool(max(1, min(processes, -(-len(sources) // _SOURCES_AT_ONCE)))) as pool,
        progress(console, "transforming", total) as advance,
    ):
        writer = csv.writer(file)
        writer.writerow(("row", "source", "source_row", "copy", *PARAMETERS))
        for first, parameters in pool.map(partial(_transform_chunk, job), _chunks(sources, number)):
            for row, values in enumerate(parameters, first):
                source = int(sources[row // number])
                writer.writerow((row, dataset.record(source).id, source, row % number, *(f"{v:.6g}" for v in values)))
            advance(len(parameters))
    return job


def _chunks(sources: Rows, number: int) -> Iterator[Chunk]:
    for start in range(0, len(sources), _SOURCES_AT_ONCE):
        yield Chunk(start * number, tuple(sources[start : start + _SOURCES_AT_ONCE].tolist()))


def _transform_chunk(job: Job, chunk: Chunk) -> tuple[int, list[list[float]]]:
    """Write the copies of these sources; return their first row, and the parameters of each."""
    import torch

    images = np.load(job.images, mmap_mode="r")[list(chunk.sources)]
    batch = torch.from_numpy(np.repeat(images, job.number, axis=0))
    # Seeded by its place, a copy does not depend on how many processes share the work.
    seed = int.from_bytes(hashlib.sha256(f"{job.seed} {chunk.first}".encode()).digest()[:7])
    copies, parameters = transform(batch, seed)
    with RowFile(job.copies, job.total, job.shape, np.uint8) as file:
        for row, copy in enumerate(copies.numpy(), chunk.first):
            file.write(row, copy)
    return chunk.first, parameters.tolist()


def transform(batch: "torch.Tensor", seed: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return a transformed copy of each image, and the parameters that made it.

    Args:
        batch: uint8 of shape (B, C, S, S), C 3 or 1.
        seed: decides all parameters, in combination with B.

    Returns:
        uint8 (B, C, S, S), and float64 (B, len(PARAMETERS)): angle in degrees, translation in pixels, hue in turns, the
        others factors; hue and saturation are NaN for grey images.
    """
    import kornia
    import torch

    generator = torch.Generator().manual_seed(seed)
    drawn = {
        name: torch.empty(len(batch), dtype=torch.float64).uniform_(low, high, generator=generator)
        for name, (low, high) in _RANGES.items()
    }
    affine = kornia.augmentation.RandomAffine(**_AFFINE, padding_mode="reflection", align_corners=False, p=1.0)
    with torch.random.fork_rng(devices=[]):  # Kornia draws from the global generator
        torch.manual_seed(seed)
        moved = affine.forward_parameters(batch.shape)
    values = affine(batch.to(torch.float32) / 255, params=moved)
    factors = {name: factor.to(torch.float32) for name, factor in drawn.items()}
    if batch.shape[1] == 3:
        values = _recolour(values, factors["hue"], factors["saturation"])
    else:
        drawn["hue"] = drawn["saturation"] = torch.full((len(batch),), torch.nan, dtype=torch.float64)
    values = kornia.enhance.adjust_gamma(values, factors["gamma"])
    values = kornia.enhance.adjust_contrast_with_mean_subtraction(values, factors["contrast"])
    # The factor of `adjust_brightness` is added, not multiplied: 0 changes nothing.
    values = kornia.enhance.adjust_brightness(values, factors["brightness"] - 1)
    values = kornia.enhance.sharpness(values, factors["sharpness"])
    shift, scale = moved["translations"], moved["scale"][:, 0]
    parameters = torch.stack([moved["angle"], shift[:, 0], shift[:, 1], scale, *drawn.values()], dim=1)
    return (values * 255).round().clamp(0, 255).to(torch.uint8), parameters.to(torch.float64)


def _recolour(values: "torch.Tensor", hue: "torch.Tensor", saturation: "torch.Tensor") -> "torch.Tensor":
    """Turn the hue and scale the saturation of float RGB (B, 3, S, S) in [0, 1]; `hue` is in turns."""
    import kornia
    import torch

    full = 2 * torch.pi
    h, s, v = kornia.color.rgb_to_hsv(values).unbind(1)
    h = torch.remainder(h + full * hue[:, None, None], full)
    return kornia.color.hsv_to_rgb(torch.stack([h, (s * saturation[:, None, None]).clamp(0, 1), v], dim=1))


def _contact_sheet(images: store.Pixels, copies: store.Pixels, sources: Rows, number: int, path: Path) -> None:
    """Draw some source images, the first of each line, and their copies after it."""
    from PIL import Image

    shown = min(number, _SHEET_COLUMNS - 1)
    places = np.unique(np.linspace(0, len(sources) - 1, _SHEET_ROWS, dtype=np.int64))
    lines = [
        np.concatenate([images[sources[place]], *copies[place * number : place * number + shown]], axis=-1)
        for place in places
    ]
    sheet = np.concatenate(lines, axis=-2).transpose(1, 2, 0)
    Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else np.ascontiguousarray(sheet)).save(path)


def _key(dataset: store.PreparedDataset, spec: SplitSpec, number: int, seed: int) -> str:
    return digest(
        {
            "store": dataset.content_key,
            "split": {**dataclasses.asdict(spec), "format": splits.FORMAT},
            "copies": number,
            "seed": seed,
            "code": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
            "packages": [importlib.metadata.version(package) for package in ("torch", "kornia")],
        }
    )
