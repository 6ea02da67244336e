"""Photograph-like pictures, and JPEG bodies of a wanted size, for measurements of decoding and serving."""

import math

import numpy as np

from synthetic.canvas import Pixels, Plane, blend, clouds, colour, pixels, ramp, stream
from synthetic.encoding import jpeg

TOLERANCE = 0.1  # of the wanted size
QUALITIES = (50, 97)  # lowest and highest that a camera or a web site would use


def photograph(width: int, height: int, rng: np.random.Generator, detail: float = 1.0) -> Pixels:
    """Return a picture (height, width, 3): overlapping textured things under uneven light, in slight focus blur.

    Its amplitudes fall about as 1/f, as those of natural pictures do (Field, 1987, J. Opt. Soc. Am. A 4, 2379).
    `detail`, above 0, scales the finest textures and the grain.
    """
    longest = max(width, height)
    picture = np.empty((3, height, width), np.float32)
    picture[:] = colour(rng.uniform(), rng.uniform(0.1, 0.4), rng.uniform(0.4, 0.8))[:, None, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-height / width, height / width, height, dtype=np.float32)[:, None]
    edges = clouds(rng, height, width, longest / 4, 5)
    for _ in range(12):
        fill = colour(rng.uniform(), rng.uniform(0.1, 0.8), rng.uniform(0.15, 0.95))
        blend(picture, fill, _thing(x, y, edges, longest, rng))
    texture = clouds(rng, height, width, longest / 8, max(3, round(math.log2(longest / 8))), 0.65)
    picture *= 1 + np.float32(0.24 * detail) * texture
    picture *= np.float32(0.9) + np.float32(rng.uniform(-0.15, 0.15)) * x + np.float32(rng.uniform(-0.15, 0.15)) * y
    return pixels(picture, rng, 0.012 * detail)


def _thing(x: Plane, y: Plane, edges: Plane, longest: int, rng: np.random.Generator) -> Plane:
    """Return the opacity of a rough ellipse somewhere in the picture."""
    turn, wide, tall = rng.uniform(0, math.pi), rng.uniform(0.15, 0.7), rng.uniform(0.1, 0.4)
    cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    x, y = x - np.float32(rng.uniform(-1, 1)), y - np.float32(rng.uniform(-0.8, 0.8))
    radius: Plane = np.hypot((x * cos + y * sin) * np.float32(1 / wide), (y * cos - x * sin) * np.float32(1 / tall))
    soft = rng.uniform(2, 12) / longest / tall
    return ramp(radius + np.float32(rng.uniform(0, 0.2)) * edges, 1 + soft, 1 - soft)


def jpeg_body(width: int, height: int, kilobytes: float, seed: int = 0) -> bytes:
    """Return a baseline 4:2:0 JPEG of `kilobytes` (1,000 bytes) within 10 %, the same for the same arguments.

    The quality is searched first; if none from 50 to 97 fits, the picture gets more or less detail.
    Raises `ValueError` if no picture of that size can have that number of bytes.
    """
    target = kilobytes * 1000
    for detail in (1.0, 0.5, 2.0, 0.2, 4.0, 0.05, 8.0):
        picture = photograph(width, height, stream(seed, 6, width, height), detail)
        low, high = QUALITIES
        while low <= high:
            quality = (low + high) // 2
            body = jpeg(picture, quality)
            if abs(len(body) - target) <= TOLERANCE / 2 * target or (
                low == high and abs(len(body) - target) <= TOLERANCE * target
            ):
                return body
            low, high = (quality + 1, high) if len(body) < target else (low, quality - 1)
    raise ValueError(f"no JPEG of {width}x{height} has about {kilobytes} kB. Ask for between 0.1 and 4 bits a pixel")
