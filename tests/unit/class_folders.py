"""Small raw data sets for tests: class folders of JPEG files, no two alike."""

from pathlib import Path

import numpy as np
import simplejpeg

CLASSES = ("cat", "dog", "owl")


def jpeg(seed: int, side: int = 24) -> bytes:
    """Return a JPEG file of coarse noise that depends on the seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
    pixels = np.ascontiguousarray(coarse.repeat(4, 0).repeat(4, 1))
    return bytes(simplejpeg.encode_jpeg(pixels, quality=90))


def write(raw: Path, train: int, test: int = 0, classes: tuple[str, ...] = CLASSES) -> Path:
    """Write so many images of each class to `raw`, with sides where there are test images; return `raw`."""
    seed = 0
    for side, number in {"train": train, "test": test}.items() if test else {"": train}.items():
        for name in classes:
            folder = raw / side / name
            folder.mkdir(parents=True)
            for image in range(number):
                seed += 1
                (folder / f"{image:04d}.jpg").write_bytes(jpeg(seed))
    return raw
