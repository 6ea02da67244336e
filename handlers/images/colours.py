"""Turn any Pillow image into plain 8-bit RGB or grey, looking as it looks to a person."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from handlers.spec import Colour

# Images are converted a strip at a time: composing 50 megapixels over white in one piece would need several times
# the memory of the decoded image.
STRIP_PIXELS = 2**20

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
TIFF_BITS_PER_SAMPLE, TIFF_PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0


def to_array(image: Image.Image, colour: Colour) -> npt.NDArray[np.uint8]:
    """Return the pixels of a loaded image as it looks on white paper.

    Transparency, of whatever form, is composed over white. CMYK and LAB become sRGB. Grey values of more than 8 bits
    are scaled by their range (see `value_range`), never clipped.

    Returns:
        uint8 of shape (H, W, 3) for "rgb", (H, W, 1) for "grey" (ITU-R 601 luminance, the Y of a JPEG).
    """
    channels = 3 if colour == "rgb" else 1
    array = np.empty((image.height, image.width, channels), np.uint8)
    deep = image.mode in DEEP_MODES
    unsigned = bool(getattr(image, "is_unsigned", False))
    low, high = value_range(image) if deep else (0.0, 255.0)
    for top, strip in _strips(image):
        rows = array[top : top + strip.height]
        if deep:
            rows[:] = _scaled(strip, low, high, unsigned)[:, :, None]
        else:
            rows[:] = _flat(strip, colour).reshape(rows.shape)
    return array


def value_range(image: Image.Image) -> tuple[float, float]:
    """Return the values of a deep grey image that are black and white.

    16-bit images: the range of the bits that the file declares (12-bit TIFF: 0 and 4095). 32-bit integers of a TIFF,
    and floats beyond [0, 1], have no agreed white: their own darkest and lightest value, as viewers of scientific
    images do. A TIFF whose white is zero has its two values swapped.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        bits = int(tags.get(TIFF_BITS_PER_SAMPLE, (16,))[0])
        low, high = 0.0, float(2 ** min(max(bits, 1), 16) - 1)
    elif image.mode == "I" and not tags:
        low, high = 0.0, 65535.0
    else:
        low, high = _extremes(image, bool(getattr(image, "is_unsigned", False)))
        if image.mode == "F" and low >= 0 and high <= 1:
            low, high = 0.0, 1.0
    return (high, low) if tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO else (low, high)


def _extremes(image: Image.Image, unsigned: bool) -> tuple[float, float]:
    low, high = np.inf, -np.inf
    for _, strip in _strips(image):
        values = _values(strip, unsigned)
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low < high else (min(low, 0.0), max(high, 1.0))


def _values(strip: Image.Image, unsigned: bool) -> npt.NDArray[Any]:
    values = np.asarray(strip)
    return values.view(np.uint32) if unsigned and strip.mode == "I" else values  # Pillow has no unsigned type


def _scaled(strip: Image.Image, low: float, high: float, unsigned: bool) -> npt.NDArray[np.uint8]:
    values = _values(strip, unsigned)
    # 32-bit integers do not fit into the 24 bits of a float32.
    wide: npt.NDArray[np.floating[Any]] = values.astype(np.float64 if strip.mode == "I" else np.float32)
    level = np.nan_to_num((wide - low) * (255.0 / (high - low)))
    key = strip.info.get("transparency")
    if isinstance(key, int):
        level[values == key] = 255.0
    scaled: npt.NDArray[np.uint8] = np.clip(np.rint(level), 0, 255).astype(np.uint8)
    return scaled


def _flat(strip: Image.Image, colour: Colour) -> npt.NDArray[np.uint8]:
    if strip.mode in ("La", "RGBa"):
        strip = strip.convert(strip.mode.upper())
    if strip.has_transparency_data:
        rgba = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    # Not every mode converts to "L" directly; all convert to "RGB".
    if colour == "rgb" or strip.mode not in ("1", "L", "RGB", "YCbCr"):
        strip = strip.convert("RGB")
    return np.asarray(strip if colour == "rgb" else strip.convert("L"))


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    height = max(1, STRIP_PIXELS // max(1, image.width))
    for top in range(0, image.height, height):
        yield top, image.crop((0, top, image.width, min(top + height, image.height)))
