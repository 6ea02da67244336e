"""Measures of prepared images, computed in one pass: a signature that copies share, sharpness and brightness.

The signature holds the low frequencies of an image by the discrete cosine transform, as perceptual hashes do, but not
rounded to bits. High frequencies weigh more, since all photographs have weak ones: so those of different images differ.
"""

import contextlib
import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from torch.nn import functional

from handlers.errors import RequestError
from handlers.images.decoding import decode
from handlers.images.limits import UNLIMITED
from handlers.lookahead import map_ahead
from handlers.machine import cores
from training.data.decoders import read_bytes
from training.data.loaders import ordered_images
from training.data.progress import progress
from training.data.splits import Rows
from training.data.store import PreparedDataset

SIDE = 32  # pixels, to which an image is shrunk for its signature
FREQUENCIES = 8  # in each direction
BATCH = 64  # images
LUMINANCE = (0.299, 0.587, 0.114)
BRIGHTEST = 0.99  # share of the pixels that are darker than an image's brightness

Values = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Measures:
    """Of N images: signatures (N, D) of unit length, variance of the Laplacian (N,), and brightness (N,) of 255."""

    signatures: Values
    sharpness: Values
    brightness: Values


def measure(data: PreparedDataset, rows: Rows, console: Console) -> Measures:
    """Return the measures of prepared images."""
    parts = []
    with progress(console, "measuring", len(rows)) as advance:
        for images in ordered_images(data, rows, BATCH):
            planes = _planes(images)
            grey = planes[:, 0]
            parts.append((_signatures(planes), _sharpness(grey), _brightness(grey)))
            advance(len(images))
    signatures, sharpness, brightness = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return Measures(signatures, sharpness, brightness)


def mirrored(signatures: torch.Tensor) -> torch.Tensor:
    """Return the signatures of mirrored images: the horizontal waves of odd frequency change their sign."""
    signs = torch.ones(FREQUENCIES)
    signs[1::2] = -1
    return signatures * signs.repeat(signatures.shape[1] // FREQUENCIES)


def _planes(images: torch.Tensor) -> torch.Tensor:
    """Return float32 (B, C, S, S) of uint8 images: luminance, and for colour images blue and red less luminance."""
    values = images.to(torch.float32)
    if values.shape[1] == 1:
        return values
    grey = (values * torch.tensor(LUMINANCE).view(1, 3, 1, 1)).sum(dim=1)
    return torch.stack([grey, values[:, 2] - grey, values[:, 0] - grey], dim=1)


def _signatures(planes: torch.Tensor) -> torch.Tensor:
    small = functional.adaptive_avg_pool2d(planes, SIDE)
    waves, weights = _transform()
    coefficients = torch.einsum("ui,bcij,vj->bcuv", waves, small, waves) * weights
    coefficients[:, 0, 0, 0] = 0  # the mean luminance
    return functional.normalize(coefficients.flatten(1), dim=1)


@functools.cache
def _transform() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first rows of the cosine transform, and the weight of each pair of frequencies."""
    frequency = torch.arange(FREQUENCIES)
    waves = torch.cos(torch.pi / SIDE * torch.outer(frequency, torch.arange(SIDE) + 0.5)) * (2 / SIDE) ** 0.5
    waves[0] /= 2**0.5
    weights = torch.hypot(frequency[:, None].float(), frequency[None, :].float())
    weights[0, 0] = 0.5  # of the mean colours
    return waves, weights


def _sharpness(grey: torch.Tensor) -> torch.Tensor:
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    return functional.conv2d(grey[:, None], kernel[None, None]).flatten(1).var(dim=1, correction=0)


def _brightness(grey: torch.Tensor) -> torch.Tensor:
    return functional.adaptive_avg_pool2d(grey[:, None], SIDE).flatten(1).quantile(BRIGHTEST, dim=1)


def sizes(data: PreparedDataset, rows: Rows, console: Console) -> npt.NDArray[np.int64]:
    """Return width and height in pixels (N, 2) of the images as they are on disk, from their headers.

    Raises:
        DatasetError: a file cannot be read any more.
    """

    def size(row: int) -> tuple[int, int]:
        return _size(read_bytes(data.raw, data.record(row)))

    values: list[tuple[int, int]] = []
    with progress(console, "reading sizes", len(rows)) as advance, ThreadPoolExecutor(cores()) as pool:
        for value in map_ahead(pool, size, rows.tolist(), 4 * cores()):
            values.append(value)
            advance(1)
    return np.array(values, np.int64).reshape(-1, 2)


class _Header(RequestError):
    """The header has been read; the pixels are not decoded."""


def _size(data: bytes) -> tuple[int, int]:
    size = (0, 0)

    def on_header(width: int, height: int) -> None:
        nonlocal size
        size = (width, height)
        raise _Header

    with contextlib.suppress(_Header):
        decode(data, limits=UNLIMITED, on_header=on_header)
    return size
