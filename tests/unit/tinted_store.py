"""A prepared data set that a tiny network learns in seconds: noise, brighter in the colour that its class names."""

from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from training.data.prepare import prepare
from training.data.recipe import Recipe

CLASSES = ("blue", "green", "red")
SIDE = 16
# What a command line says so that training takes seconds.
TINY = (
    "dataset=class_folders",
    f"dataset.image_size={SIDE}",
    "store=tinted",
    "network=small_cnn",
    "network.layers=[{channels: 8, pool: max}, {channels: 16}]",
    "augmentation=[{op: RandomAffine, degrees: 10, p: 0.5}]",
    "trainer.epochs=3",
    "trainer.batch_size=8",
    "trainer.device=cpu",
)


def tinted_store(root: Path, images: int = 20, **preprocess: Any) -> Path:
    """Write so many images of each class and prepare them as data/processed/tinted below `root`; return `root`.

    They are prepared at their own size, unless settings of `preprocess` say otherwise.
    """
    random = np.random.default_rng(0)
    for channel, name in enumerate(reversed(CLASSES)):
        folder = root / "raw" / name
        folder.mkdir(parents=True)
        for image in range(images):
            pixels = random.integers(0, 160, (SIDE, SIDE, 3), dtype=np.uint8)
            pixels[..., channel] += 80
            (folder / f"{image:03d}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels, quality=95))
    recipe = Recipe(name="tinted", reader="class_folders", raw=root / "raw", **{"image_size": SIDE, **preprocess})
    prepare(recipe, root / "data/processed/tinted")
    return root
