"""Images whose object is small and anywhere, and whose place is known: for explanations, which must point at it.

The objects are those of fingers, moths and petals, drawn at 0.4 to 0.7 of their size on a background of their kind.
"""

import io
from collections.abc import Callable, Mapping
from types import ModuleType

import numpy as np
from PIL import Image

from synthetic import fingers, flower, moths, petals, wings
from synthetic.canvas import Pixels, Plane, blend, pixels, stream

TAG = 7
SMALLEST, LARGEST = 0.4, 0.7  # of the usual size
GRAIN = 0.012
GROUNDS: Mapping[str, tuple[ModuleType, Callable[[int, np.random.Generator], Plane]]] = {
    "fingers": (fingers, fingers.ground),
    "moths": (moths, wings.resting_place),
    "petals": (petals, flower.leaves),
}


def image(dataset: str, seed: int, label: int, side: int, index: int, size: int) -> tuple[Pixels, Plane]:
    """Return a picture of (size, size) pixels and the opacity (size, size) of its object; `label` is the data set's."""
    module, ground = GROUNDS[dataset]
    rng = stream(seed, TAG, label, side, index)
    picture, cover = ground(size, rng), np.zeros((size, size), np.float32)
    small = round(size * rng.uniform(SMALLEST, LARGEST))
    row, column = rng.integers(0, size - small + 1, 2)
    window = slice(row, row + small), slice(column, column + small)
    with Image.open(io.BytesIO(module.image(seed, label, side, index, small))) as drawn:
        levels = np.asarray(drawn, np.float32) / 255
    cover[window] = module.cover(seed, label, side, index, small)
    blend(picture[..., *window], levels.transpose(2, 0, 1) if levels.ndim == 3 else levels, cover[window])
    return pixels(picture, rng, GRAIN), cover
