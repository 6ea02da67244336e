"""The pictures of libvips, a second decoder, to compare ours with: upright, on white, the first frame, 8 bits.

Colour profiles are set apart: they are not applied, and CMYK becomes RGB by the plain formula that Pillow has. Values
without an agreed white (floats, 32 bits, signed) are stretched from their darkest to their lightest.
"""

import contextlib
import dataclasses
import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

EXTRA_SAMPLES = 338
# Of Pillow for broken bytes. The picture then stays as libvips shows it, and the comparison reports that.
BROKEN = (EOFError, IndexError, OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
STRETCHED = ("char", "short", "uint", "int", "float", "double")


class Unread(Exception):
    """libvips does not read it; the message says why, in one line."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """A picture as libvips reads it: uint8 of shape (H, W, 3), whether it is whole, and has a colour profile."""

    pixels: npt.NDArray[np.uint8]
    whole: bool
    profile: bool


def read(data: bytes) -> Reference:
    """Return what libvips makes of an encoded image.

    Raises:
        Unread: nothing.
    """
    import pyvips  # no dependency: see tests.campaigns.pictures

    try:
        whole = _whole(pyvips, data)
        image = pyvips.Image.new_from_buffer(data, "", fail_on="none")
        profile = image.get_typeof("icc-profile-data") != 0
        pixels = _plain(_upright(image.extract_band(0, n=image.bands - _unknown_samples(data))))
    except pyvips.Error as error:
        raise Unread(" ".join(str(error).split())[:200]) from error
    return Reference(_whiten_outside(data, pixels), whole, profile)


def _whole(pyvips: Any, data: bytes) -> bool:
    try:
        pyvips.Image.new_from_buffer(data, "", fail_on="warning").avg()
    except pyvips.Error:
        return False
    return True


def _whiten_outside(data: bytes, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Make the canvas of a GIF white outside its first frame: libvips shows it black where nothing is transparent."""
    if not data.startswith(b"GIF8"):
        return pixels
    with contextlib.suppress(*BROKEN), GifImageFile(io.BytesIO(data)) as image:
        left, top, right, bottom = image.tile[0].extents or (0, 0, *image.size)
        canvas = np.full_like(pixels, 255)
        canvas[top:bottom, left:right] = pixels[top:bottom, left:right]
        return canvas
    return pixels


def _unknown_samples(data: bytes) -> int:
    """Return how many samples of a TIFF have no meaning: libvips shows the first of them as transparency."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return 0
    try:
        tags = ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        return tuple(tags.get(EXTRA_SAMPLES, ())).count(0)
    except BROKEN:
        return 0


def _upright(image: Any) -> Any:
    if image.get_typeof("n-pages") and image.get_typeof("page-height"):
        image = image.crop(0, 0, image.width, min(image.get("page-height"), image.height))
    return image.autorot()


def _plain(image: Any) -> npt.NDArray[np.uint8]:
    if image.get_typeof("icc-profile-data"):
        image = image.copy()
        image.remove("icc-profile-data")
    if image.interpretation == "cmyk":
        ink = np.asarray(image.cast("uchar") if image.format == "uchar" else (image >> 8).cast("uchar"))[..., :4]
        return _of_ink(ink)
    if image.interpretation not in ("lab", "labs", "cmyk") and image.format in STRETCHED:
        return _stretched(np.asarray(image).astype(np.float64).reshape(image.height, image.width, -1))
    deep = image.format == "ushort"
    alpha = image.hasalpha()
    if deep:
        image = image.copy(interpretation="rgb16" if image.bands - alpha >= 3 else "grey16")
    image = image.colourspace("srgb").cast("uchar")
    if alpha:
        image = image.flatten(background=[255])
    array: npt.NDArray[np.uint8] = np.asarray(image).reshape(image.height, image.width, -1)
    return array[..., :3] if array.shape[2] >= 3 else np.repeat(array[..., :1], 3, axis=2)


def _of_ink(ink: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    light = 255.0 - ink.astype(np.float32)
    rgb = light[..., :3] * light[..., 3:] / 255
    return np.rint(rgb).astype(np.uint8)


def _stretched(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    values = values[..., :3] if values.shape[2] >= 3 else np.repeat(values[..., :1], 3, axis=2)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    level = np.nan_to_num((values - low) * (255 / max(high - low, 1e-30)))
    return np.clip(np.rint(level), 0, 255).astype(np.uint8)
