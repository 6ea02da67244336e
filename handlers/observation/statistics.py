"""Brightness, contrast and sharpness of an image at the network's size, from a sample of its rows.

The exporter imports this without torch; `handlers.observation.measurements` measures the images of a worker.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BANDS = 16  # of three neighbouring rows each: a fifth of the rows of 224


class Statistics(NamedTuple):
    """Of one image, in shares of white.

    `brightness` is the mean of all channels, `contrast` their standard deviation, and `sharpness` the mean absolute
    Laplacian (four neighbours) of each channel: noise raises it, blur lowers it.
    """

    brightness: float
    contrast: float
    sharpness: float


def measure(pixels: npt.NDArray[np.uint8]) -> Statistics:
    """Return the statistics of one image of shape (S, S, C), of at least three rows."""
    height, width, channels = pixels.shape
    sample = pixels.reshape(height, width * channels)[sampled_rows(height)]
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


@functools.lru_cache
def sampled_rows(height: int) -> npt.NDArray[np.int64]:
    """Return the rows of the bands, evenly over the height."""
    bands = min(BANDS, height // 3)
    middles = [min(max(1, int((band + 0.5) * height / bands)), height - 2) for band in range(bands)]
    return np.array([middle + step for middle in middles for step in (-1, 0, 1)])
