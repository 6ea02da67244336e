"""The EXIF orientation of an image, and turning its pixels upright."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from handlers.errors import OF_HOSTILE_BYTES

Pixels = npt.NDArray[np.uint8]

ORIENTATION_TAG = 0x0112


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation (1 to 8) to apply to a loaded image."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except OF_HOSTILE_BYTES:  # unreadable metadata of a good picture: it stays as it was stored
        return 1
    if isinstance(value, bytes) and len(value) == 1:  # as a byte, which some writers make of the short
        value = value[0]
    return value if value in range(1, 9) else 1


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn and mirror (H, W, C) pixels by their EXIF orientation (EXIF 2.32, tag 0x0112); GPU: `nvjpeg._upright`."""
    if orientation == 1:
        return pixels
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels.copy()  # where a side is 1, numpy calls a view turned round contiguous, and torch does not
