"""A data set of 16-pixel images that a small network learns in seconds: stripes, few or many, lying or standing."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("0L", "0R", "1L", "1R")
# What every command on it is told: the smallest of everything.
SETTINGS = (
    "dataset=class_folders",
    "dataset.image_size=16",
    "split.test=given",
    "network=small_cnn",
    "network.layers=[{channels:8,kernel:3,stride:2,padding:1},{channels:16,kernel:3,stride:2,padding:1}]",
    "augmentation=[]",
    "trainer.epochs=4",
    "trainer.batch_size=16",
    "trainer.precision=fp32",
    "+dataset.label_parts={count:'^(\\d)',hand:'(L|R)$'}",
)


def draw(raw: Path, *, train: int = 20, test: int = 6) -> None:
    """Write `raw/{train,test}/<class>/<n>.png`."""
    generator = np.random.default_rng(0)
    for side, count in (("train", train), ("test", test)):
        for label in CLASSES:
            folder = raw / side / label
            folder.mkdir(parents=True)
            for number in range(count):
                period = 8 if label[0] == "0" else 4
                wave = np.sin((np.arange(16) + generator.uniform(0, period)) * 2 * np.pi / period)
                pixels = 128 + 70 * np.tile(wave, (16, 1)) + generator.normal(0, 25, (16, 16))
                if label[1] == "R":
                    pixels = pixels.T
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB").save(folder / f"{number}.png")
