"""Hands with 0 to 5 raised fingers, left and right: the layout of the fingers data set.

    train/<uuid>_3L.png, test/<uuid>_3L.png        grey, 128 x 128; the last two characters are count and hand

A left hand has its thumb on the left. The hand varies in place, turn, size, spread and which fingers are up; background
and light vary without regard to the class.
"""

import math
import uuid
from pathlib import Path

import numpy as np

from synthetic.canvas import Plane, blend, clouds, grid, pixels, stream
from synthetic.encoding import png
from synthetic.folder import Parameters, Task, build
from synthetic.hand import Finger, Layer, Light, Placing, Pose, draw

CLASSES = tuple(f"{count}{hand}" for count in range(6) for hand in "LR")
TAG = 1

# Which fingers are up (thumb first), the usual way first: it is drawn in two cases of three.
WAYS = (
    ("00000",),
    ("01000", "00001", "10000"),
    ("01100", "11000", "01001"),
    ("01110", "11100", "00111"),
    ("01111", "11110"),
    ("11111",),
)


def generate(
    raw: Path,
    *,
    seed: int = 0,
    images_per_class: int = 175,
    classes: int = 12,
    size: int = 128,
    workers: int | None = None,
) -> bool:
    """Write hands to `raw`: `images_per_class` for training and a fifth as many for test; False if it has them."""
    tasks = [
        Task(f"{split}/{name(seed, number, side, index)}_{label}.png", image, (seed, number, side, index, size))
        for side, (split, count) in enumerate((("train", images_per_class), ("test", math.ceil(images_per_class / 5))))
        for number, label in enumerate(CLASSES[:classes])
        for index in range(count)
    ]
    return build(raw, Parameters("fingers", seed, images_per_class, classes, size), tasks, workers)


def name(seed: int, label: int, side: int, index: int) -> str:
    """Return the UUID in an image's file name."""
    return str(uuid.UUID(bytes=stream(seed, TAG, label, side, index, 1).bytes(16), version=4))


def image(seed: int, label: int, side: int, index: int, size: int) -> bytes:
    """Return one PNG: `label` counts in `CLASSES`, `side` is 0 for training and 1 for test."""
    rng = stream(seed, TAG, label, side, index)
    hand = _hand(label, size, rng)
    picture = ground(size, rng)
    skin = rng.uniform(0.62, 0.98) * hand.shade * (1 + 0.03 * clouds(rng, size, size, size / 12, 2))
    blend(picture, skin, hand.cover)
    return png(pixels(picture, rng, rng.uniform(0.01, 0.035)))


def cover(seed: int, label: int, side: int, index: int, size: int) -> Plane:
    """Return where the hand of an image is: its opacity (size, size)."""
    return _hand(label, size, stream(seed, TAG, label, side, index)).cover


def _hand(label: int, size: int, rng: np.random.Generator) -> Layer:
    angle = rng.uniform(0, 2 * math.pi)
    light = Light(0.55 * math.cos(angle), 0.55 * math.sin(angle), rng.uniform(0.45, 0.65), rng.uniform(0.25, 0.4))
    layer = Layer(size, size, light)
    placing = Placing(
        x=size * rng.uniform(0.41, 0.59),
        y=size * rng.uniform(0.54, 0.68),
        unit=size * rng.uniform(0.25, 0.33),
        turn=rng.uniform(-25, 25),
        mirrored=CLASSES[label].endswith("R"),
        arm=rng.uniform(0.65, 1.0),
    )
    draw(layer, pose(int(CLASSES[label][0]), rng), placing)
    return layer


def ground(size: int, rng: np.random.Generator) -> Plane:
    """Return a background (size, size) of smooth light and texture."""
    x, y = grid(size)
    slope = rng.uniform(-0.12, 0.12, 2)
    picture: Plane = np.float32(rng.uniform(0.12, 0.34)) + np.float32(slope[0]) * x + np.float32(slope[1]) * y
    picture += np.float32(rng.uniform(0.02, 0.07)) * clouds(rng, size, size, size / 5, 4, 0.65)
    return picture


def pose(count: int, rng: np.random.Generator) -> Pose:
    """Return a hand with `count` fingers up: which of them, how far and how spread is drawn from `rng`."""
    ways = WAYS[count]
    up = ways[0] if len(ways) == 1 or rng.random() < 2 / 3 else ways[rng.integers(1, len(ways))]
    fingers = tuple(
        Finger(rng.uniform(0.88, 1.08), rng.normal(0, 3), rng.normal(0, 8)) if digit == "1" else Finger(0.0)
        for digit in up
    )
    thumb, index, middle, ring, little = fingers
    return Pose((thumb, index, middle, ring, little), spread=rng.uniform(0.8, 1.6))
