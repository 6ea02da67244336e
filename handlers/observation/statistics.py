"""Brightness, contrast and sharpness of images at the network's size, from a sample of their rows."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

BANDS = 16  # of three neighbouring rows each: a fifth of the rows of 224


class Statistics(NamedTuple):
    """Of one image, in shares of white.

    `brightness` is the mean of all channels, `contrast` their standard deviation, and `sharpness` the mean absolute
    Laplacian (four neighbours) of each channel: noise raises it, blur lowers it.
    """

    brightness: float
    contrast: float
    sharpness: float


def measure(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the columns of `Statistics`, float32 of shape (B, 3) on the CPU.

    Args:
        images: uint8, each of shape (C, S, S), of at least three rows, as `Classifier.decode` returns them.
    """
    return torch.tensor(rows_of(images), dtype=torch.float32).reshape(-1, len(Statistics._fields))


def rows_of(images: Sequence[torch.Tensor]) -> list[Statistics]:
    """Return the statistics of images."""
    if all(image.device.type == "cpu" for image in images):
        # By numpy: its small operations take half the time of torch's.
        return [_of_array(image.permute(1, 2, 0).numpy()) for image in images]
    with torch.inference_mode():
        device = next(image.device for image in images if image.device.type != "cpu")
        return [Statistics(*row) for row in _of_batch(images, device)]


def _of_array(pixels: npt.NDArray[np.uint8]) -> Statistics:
    height, width, channels = pixels.shape
    sample = pixels.reshape(height, width * channels)[_rows(height)]
    values = sample.astype(np.float32).ravel()
    mean = float(values.sum()) / values.size
    values -= mean
    contrast = math.sqrt(float(values @ values) / values.size)
    above, middle, below = sample.reshape(-1, 3, width * channels).astype(np.int16).transpose(1, 0, 2)
    laplacian = 4 * middle[:, channels:-channels]
    for neighbours in (above[:, channels:-channels], below[:, channels:-channels]):
        laplacian -= neighbours
    for neighbours in (middle[:, : -2 * channels], middle[:, 2 * channels :]):
        laplacian -= neighbours
    sharpness = float(np.abs(laplacian, out=laplacian).sum(dtype=np.int64)) / laplacian.size
    return Statistics(mean / 255, contrast / 255, sharpness / 255)


def _of_batch(images: Sequence[torch.Tensor], device: torch.device) -> list[list[float]]:
    """Return the same of images, computed on a GPU by few kernels for all of them."""
    channels, height, width = images[0].shape
    rows = torch.from_numpy(_rows(height)).to(device)
    sample = torch.stack([image.to(device).permute(1, 2, 0).index_select(0, rows) for image in images])
    values = sample.view(len(images), -1).to(torch.float32)
    mean = values.mean(1, keepdim=True)
    contrast = torch.linalg.vector_norm(values - mean, dim=1) / values.shape[1] ** 0.5
    above, middle, below = values.view(len(images), -1, 3, width * channels).unbind(2)
    inner = slice(channels, -channels)
    laplacian = (4 * middle[..., inner]).sub_(above[..., inner]).sub_(below[..., inner])
    laplacian.sub_(middle[..., : -2 * channels]).sub_(middle[..., 2 * channels :])
    sharpness = torch.linalg.vector_norm(laplacian.flatten(1), 1, dim=1) / laplacian[0].numel()
    rows_of_statistics: list[list[float]] = (torch.stack([mean[:, 0], contrast, sharpness], dim=1) / 255).tolist()
    return rows_of_statistics


@functools.lru_cache
def _rows(height: int) -> npt.NDArray[np.int64]:
    """Return the rows of the bands, evenly over the height."""
    bands = min(BANDS, height // 3)
    middles = [min(max(1, int((band + 0.5) * height / bands)), height - 2) for band in range(bands)]
    return np.array([middle + step for middle in middles for step in (-1, 0, 1)])
