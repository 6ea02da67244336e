"""Random streams, noise and blending, the base of every drawing here."""

import numpy as np
import numpy.typing as npt
from PIL import Image

Plane = npt.NDArray[np.float32]  # (H, W), or (3, H, W) for RGB, 0 to 1 unless said otherwise
Pixels = npt.NDArray[np.uint8]  # (H, W) or (H, W, 3)

DESIGN = 0x516A  # seeds the look of a class, never that of one image


def stream(*key: int) -> np.random.Generator:
    """Return the random stream of a key of non-negative integers: equal keys, equal streams, on any machine."""
    return np.random.default_rng(np.random.SeedSequence(key))


def grid(size: int) -> tuple[Plane, Plane]:
    """Return the x and y of pixel centres, shapes (1, size) and (size, 1), from -1 (left, top) to 1 (right, bottom)."""
    along = ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)
    return along[None, :], along[:, None]


def clouds(
    rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 3, falloff: float = 0.5
) -> Plane:
    """Return smooth noise (height, width), about zero mean and unit deviation.

    `cell` is the size in pixels of its coarsest blobs; each further octave halves it and is weaker by `falloff`. Value
    noise (random grids, enlarged by a bicubic filter), which for `falloff` 0.5 has about a 1/f amplitude spectrum.
    """
    total = np.zeros((height, width), np.float32)
    weight, power = 1.0, 0.0
    for _ in range(octaves):
        rows, columns = max(2, round(height / cell)), max(2, round(width / cell))
        coarse = rng.standard_normal((rows, columns), dtype=np.float32)
        total += weight * np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        power += weight * weight
        weight, cell = weight * falloff, max(1.0, cell / 2)
    total /= np.float32(power**0.5)
    return total


def flat(size: int, fill: "Plane | npt.ArrayLike") -> Plane:
    """Return an RGB picture (3, size, size) of one colour."""
    picture = np.empty((3, size, size), np.float32)
    picture[:] = np.asarray(fill, np.float32)[:, None, None]
    return picture


def blend(image: Plane, fill: "Plane | npt.ArrayLike", mask: Plane) -> None:
    """Lay a colour or a picture over `image` (H, W) or (3, H, W) in place, by the opacity `mask` (H, W)."""
    fill = np.asarray(fill, np.float32)
    if fill.ndim == 1:
        fill = fill[:, None, None]
    image += mask * (fill - image)


def opacity(on_black: Plane, on_white: Plane) -> Plane:
    """Return the opacity (H, W) of a drawing by its pictures on black and on white (3, H, W)."""
    result: Plane = 1 - (on_white - on_black).mean(axis=0).clip(0, 1)
    return result


def ramp(values: Plane, low: float, high: float) -> Plane:
    """Return 0 below `low`, 1 above `high` and a straight line between; for `high` < `low` it falls."""
    result: Plane = np.clip((values - np.float32(low)) * np.float32(1.0 / (high - low)), 0.0, 1.0)
    return result


def colour(hue: float, saturation: float, value: float) -> Plane:
    """Return RGB, 0 to 1, of a hue (turns), a saturation and a value (0 to 1)."""
    sector = (np.float32(hue % 1.0) * 6 + np.array([0, 4, 2], np.float32)) % 6
    pure = np.clip(np.abs(sector - 3) - 1, 0, 1)
    result: Plane = (value * (1 - saturation + saturation * pure)).astype(np.float32)
    return result


def pixels(image: Plane, rng: np.random.Generator, grain: float) -> Pixels:
    """Return a picture as uint8, (H, W) or (H, W, 3), with a sensor's noise of deviation `grain` (0 to 1)."""
    noisy = np.float32(grain) * rng.standard_normal(image.shape, dtype=np.float32) + image
    levels = (np.clip(noisy, 0.0, 1.0) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return levels if levels.ndim == 2 else np.ascontiguousarray(levels.transpose(1, 2, 0))
