"""Brightness, contrast and sharpness of images at the network's size, from a sample of their rows."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch

BANDS = 16  # of three neighbouring rows each: a fifth of the rows of 224, at some 45 microseconds an image


class Statistics(NamedTuple):
    """Of one image, in shares of white.

    `brightness` is the mean of all channels, `contrast` their standard deviation, and `sharpness` the mean absolute
    Laplacian (four neighbours) of each channel: noise raises it, blur lowers it.
    """

    brightness: float
    contrast: float
    sharpness: float


@torch.inference_mode()
def measure(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the columns of `Statistics`, float32 of shape (B, 3) on the CPU.

    Args:
        images: uint8, each of shape (C, S, S), of at least three rows, as `Classifier.decode` returns them.
    """
    if not images:
        return torch.empty((0, len(Statistics._fields)))
    channels, side = images[0].shape[0], images[0].shape[-1]
    devices = {image.device for image in images}
    images = images if len(devices) == 1 else [image.cpu() for image in images]
    rows = _rows(images[0].shape[-2], images[0].device)
    # Interleaved, as a decoder makes them: a row is copied in one piece.
    sample = torch.stack([image.permute(1, 2, 0).index_select(0, rows) for image in images])
    values = sample.view(len(images), -1).to(torch.float32)
    mean = values.mean(1, keepdim=True)
    # `std` takes three times as long as the norm of the differences.
    contrast = torch.linalg.vector_norm(values - mean, dim=1) / values.shape[1] ** 0.5
    above, middle, below = values.view(len(images), -1, 3, side * channels).unbind(2)
    inner = slice(channels, -channels)
    laplacian = (4 * middle[..., inner]).sub_(above[..., inner]).sub_(below[..., inner])
    laplacian.sub_(middle[..., : -2 * channels]).sub_(middle[..., 2 * channels :])
    sharpness = torch.linalg.vector_norm(laplacian.flatten(1), 1, dim=1) / laplacian[0].numel()
    return torch.stack([mean[:, 0], contrast, sharpness], dim=1).cpu() / 255


@functools.lru_cache
def _rows(height: int, device: torch.device) -> torch.Tensor:
    """Return the rows of the bands, evenly over the height; outside inference mode, so that all may use them."""
    bands = min(BANDS, height // 3)
    middles = [min(max(1, int((band + 0.5) * height / bands)), height - 2) for band in range(bands)]
    with torch.inference_mode(False):
        return torch.tensor([middle + step for middle in middles for step in (-1, 0, 1)], device=device)
