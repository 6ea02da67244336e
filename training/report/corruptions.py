"""Ten of ImageNet-C's corruptions at five strengths, on batches of images.

Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common corruptions and perturbations"
(arXiv:1903.12261). Strengths are those of the authors' code, make_imagenet_c.py; its lengths in pixels are for sides of
224 pixels, and scale with the side here. Noise and angles come from a generator: the same seed, the same images.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg
import torch
from kornia.contrib import diamond_square
from kornia.filters import filter2d
from torch.nn.functional import interpolate

STRENGTHS = 5
REFERENCE_SIDE = 224  # pixels
SAMPLES = 16  # of a kernel, by pixel and axis
MOST_DEGREES = 45  # of motion against the horizontal
CLOUDS = 8  # maps of fog for a batch: they take longer than all else

Apply = Callable[[torch.Tensor, Any, torch.Generator], torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Corruption:
    """An operation on images, and its parameter at each strength."""

    apply: Apply
    parameters: tuple[Any, ...]

    def __call__(self, images: torch.Tensor, strength: int, seed: int) -> torch.Tensor:
        """Return images float32 (B, C, S, S) in [0, 1], with one or three channels, corrupted; strength 1 to 5."""
        generator = torch.Generator().manual_seed(seed)
        return self.apply(images, self.parameters[strength - 1], generator).clamp(0, 1)


def _gaussian_noise(images: torch.Tensor, deviation: float, generator: torch.Generator) -> torch.Tensor:
    return images + deviation * torch.randn(images.shape, generator=generator)


def _shot_noise(images: torch.Tensor, photons: float, generator: torch.Generator) -> torch.Tensor:
    return torch.poisson(images * photons, generator=generator) / photons


def _impulse_noise(images: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    draws = torch.rand(images.shape, generator=generator)
    return images.masked_fill(draws < share, 1.0).masked_fill(draws < share / 2, 0.0)


def _defocus_blur(images: torch.Tensor, radius: float, generator: torch.Generator) -> torch.Tensor:
    radius = _scaled(radius, images)
    half = math.ceil(radius + 0.5) - 1
    places = (torch.arange((2 * half + 1) * SAMPLES) + 0.5) / SAMPLES - half - 0.5
    disk = (places[:, None] ** 2 + places[None, :] ** 2 <= max(radius, 0.5) ** 2).float()
    kernel = disk.reshape(2 * half + 1, SAMPLES, 2 * half + 1, SAMPLES).sum(dim=(1, 3))
    return filter2d(images, kernel[None] / kernel.sum())


def _motion_blur(images: torch.Tensor, lengths: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    """Blur along a line of a random direction, with half a Gaussian as weights, as ImageMagick does."""
    radius, deviation = (_scaled(length, images) for length in lengths)
    distance = torch.linspace(0, 2 * radius, 256)  # a kernel of ImageMagick has a width of twice the radius
    weights = torch.exp(-(distance**2) / (2 * deviation**2))
    angles = (torch.rand(len(images), generator=generator) * 2 - 1) * math.radians(MOST_DEGREES)
    side = 2 * math.ceil(2 * radius) + 1
    centre = side // 2
    x, y = (centre + turn(angles)[:, None] * distance for turn in (torch.cos, torch.sin))
    kernel = torch.zeros(len(images), side * side)
    for right, down in ((0, 0), (0, 1), (1, 0), (1, 1)):  # a point counts for the four pixels around it
        column, row = x.floor() + right, y.floor() + down
        near = (1 - (x - column).abs()).clamp(min=0) * (1 - (y - row).abs()).clamp(min=0)
        place = row.clamp(max=side - 1) * side + column.clamp(max=side - 1)
        kernel.scatter_add_(1, place.long(), near * weights)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    return filter2d(images, kernel.reshape(-1, side, side), border_type="replicate")


def _fog(images: torch.Tensor, fog: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    thickness, decay = fog
    random = functools.partial(torch.rand, generator=generator)
    shape = (CLOUDS, 1, *images.shape[2:])
    clouds = diamond_square(shape, roughness=1 / decay, random_fn=random, normalize_range=(0.0, 1.0))
    clouds = clouds[torch.arange(len(images)) % CLOUDS]
    lightest = images.amax(dim=(1, 2, 3), keepdim=True)
    return (images + thickness * clouds) * lightest / (lightest + thickness)


def _brightness(images: torch.Tensor, shift: float, generator: torch.Generator) -> torch.Tensor:
    """Add to the value of HSV, in which the colours of a pixel are proportional to the value."""
    value = images.amax(dim=1, keepdim=True).clamp(min=1e-6)
    return images.clamp(min=1e-6) * ((value + shift).clamp(max=1) / value)


def _contrast(images: torch.Tensor, factor: float, generator: torch.Generator) -> torch.Tensor:
    mean = images.mean(dim=(2, 3), keepdim=True)
    return (images - mean) * factor + mean


def _pixelate(images: torch.Tensor, factor: float, generator: torch.Generator) -> torch.Tensor:
    side = images.shape[-1]
    small = interpolate(images, size=max(1, int(side * factor)), mode="area")
    return interpolate(small, size=side, mode="nearest-exact")


def _jpeg(images: torch.Tensor, quality: int, generator: torch.Generator) -> torch.Tensor:
    """Encode and decode, by the library of real files: Kornia's codec softens rounding, and takes 100 times as long."""
    return torch.stack([_coded(image, quality) for image in images])


def _coded(image: torch.Tensor, quality: int) -> torch.Tensor:
    space, planes = ("Gray", "Gray") if len(image) == 1 else ("RGB", "420")
    pixels = np.ascontiguousarray((image * 255).round().byte().permute(1, 2, 0).numpy())
    encoded = simplejpeg.encode_jpeg(pixels, quality=quality, colorspace=space, colorsubsampling=planes)
    return torch.from_numpy(simplejpeg.decode_jpeg(encoded, colorspace=space)).permute(2, 0, 1) / 255


def _scaled(length: float, images: torch.Tensor) -> float:
    return length * images.shape[-1] / REFERENCE_SIDE


CORRUPTIONS = {
    "Gaussian noise": Corruption(_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot noise": Corruption(_shot_noise, (60, 25, 12, 5, 3)),
    "impulse noise": Corruption(_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus blur": Corruption(_defocus_blur, (3, 4, 6, 8, 10)),  # the radius; its second value smooths the disk's edge
    "motion blur": Corruption(_motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "fog": Corruption(_fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": Corruption(_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Corruption(_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": Corruption(_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "JPEG": Corruption(_jpeg, (25, 18, 15, 10, 7)),
}
