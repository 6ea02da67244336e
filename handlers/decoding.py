"""Encoded bytes to pixels: `decode` is the one way in, for preparing, evaluating and serving alike.

JPEG goes to libjpeg-turbo through simplejpeg; every other format, CMYK, and JPEG files with harmless faults go to
Pillow. Nothing is decoded before its header has been held against the limits, and whatever a decoder raises on hostile
bytes comes out as a `RequestError`.
"""

import contextlib
import ctypes
import dataclasses
import functools
import io
import logging
import math
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import AvifImagePlugin, Image, ImageFile, _imaging
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from handlers.colours import to_array
from handlers.errors import BadImage, RequestError, TooLarge, UnsupportedFormat
from handlers.spec import Colour

Buffer = bytes | bytearray | memoryview
Pixels = npt.NDArray[np.uint8]

SERVED: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "WEBP": WebPImageFile,
    "PPM": PpmImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}

JPEG_START = b"\xff\xd8\xff"
JPEG_SCAN = b"\xff\xda"
# A progressive photograph has about ten scans. Every scan costs a pass over the whole image however few bytes it has.
JPEG_MAX_SCANS = 100
# What libjpeg-turbo says where pixels are lost. Its other remarks (stray bytes between markers, odd version numbers)
# leave the picture whole: Pillow reads those files.
JPEG_DAMAGE = ("remature end", "bad Huffman code", "instead of RST")
# The second bytes of the markers that begin a frame (ITU T.81, table B.1); C3, C7, CB and CF are lossless.
JPEG_FRAMES = tuple(bytes([code]) for code in range(0xC0, 0xD0) if code not in (0xC4, 0xC8, 0xCC))
JPEG_DCT_FRAMES = tuple(marker for marker in JPEG_FRAMES if marker[0] % 4 != 3)
# A JPEG decoded at a part of its size keeps so much more than it is shrunk to, for the antialiasing to work on.
SCALED_MARGIN = 1.25
HEAVY_PIXELS = 2**24  # up to 16 bytes of memory each while they are decoded (measured: WebP)
METADATA_BYTES = 2**17
LONGEST_SIDE = 65_535  # pixels
ORIENTATION_TAG = 0x0112


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one encoded image may cost: its size in bytes, and its width times height in pixels.

    8192 x 6144 pixels hold what the camera of a telephone takes at its largest. To decode that many takes up to 0.8 GB
    (measured: WebP), for as long as it lasts. No side may be longer than JPEG's own longest: to resize a line of 50
    million pixels would take a gigabyte of filter weights.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 8192 * 6144

    def check_bytes(self, size: int) -> None:
        """Raise TooLarge for an image of more encoded bytes than the limit."""
        if size > self.max_bytes:
            raise TooLarge(f"the image has {size} bytes, more than the limit of {self.max_bytes}")

    def check_pixels(self, width: int, height: int) -> None:
        """Raise TooLarge for an image of more pixels than the limit, or with a side longer than `LONGEST_SIDE`."""
        if max(width, height) > LONGEST_SIDE:
            raise TooLarge(f"the image has {width} x {height} pixels, a side longer than the limit of {LONGEST_SIDE}")
        if width * height > self.max_pixels:
            raise TooLarge(f"the image has {width} x {height} pixels, more than the limit of {self.max_pixels}")


DEFAULT_LIMITS = Limits()


def decode(
    data: Buffer, *, colour: Colour = "rgb", limits: Limits = DEFAULT_LIMITS, smallest: int | None = None
) -> torch.Tensor:
    """Decode one image as a person looking at it sees it: upright, on white, the first frame of an animation.

    Args:
        data: the encoded image, of one of the formats `SERVED`; its own bytes tell which.
        colour: "rgb", or "grey" for luminance.
        limits: checked against the header, before anything is decoded.
        smallest: the side in pixels that the image is to be shrunk to; a JPEG whose sides stay longer than that is
            decoded at half, a quarter or an eighth of its size, which takes a fraction of the time: libjpeg leaves
            out the high frequencies that shrinking would take away. None: every image in full.

    Returns:
        uint8 of shape (C, H, W), C 3 for "rgb" and 1 for "grey"; a view of interleaved pixels, not contiguous.

    Raises:
        BadImage: not an image, truncated or corrupt.
        TooLarge: more bytes or pixels than the limits.
        UnsupportedFormat: an image of a format that is not served.
    """
    limits.check_bytes(len(data))
    if not len(data):
        raise BadImage("the image is empty")
    _silence_pillow()
    data = bytes(data)  # the only copy
    pixels = None
    if data.startswith(JPEG_START):
        pixels = _decode_jpeg(data, colour, limits, smallest)
    if pixels is None:
        pixels = _decode_with_pillow(data, colour, limits)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def is_heavy(data: Buffer) -> bool:
    """Return whether the header says that decoding takes hundreds of megabytes; False where it cannot be read."""
    try:
        if bytes(data[:3]) == JPEG_START:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data, strict=True)
        else:
            _silence_pillow()
            with SERVED[_format(bytes(data[:16]))](io.BytesIO(data)) as image:
                width, height = image.size
        return int(width) * int(height) > HEAVY_PIXELS
    except Exception:  # hostile bytes: what is wrong with them, decoding says
        return False


def _decode_jpeg(data: bytes, colour: Colour, limits: Limits, smallest: int | None) -> Pixels | None:
    """Return the pixels of a JPEG, or None where it is for Pillow to read or to refuse."""
    if _scans(data) > JPEG_MAX_SCANS:
        raise BadImage(f"the JPEG image has more than {JPEG_MAX_SCANS} scans")
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=True)
        limits.check_pixels(int(width), int(height))
        if space in ("CMYK", "YCCK"):
            return None
        target = "RGB" if colour == "rgb" else "GRAY"
        factor = _scale(min(int(width), int(height)), smallest) if _has_dct(data) else 1
        least = {"min_height": -(-int(height) // factor), "min_width": -(-int(width) // factor)}
        # Room for the whole image: TurboJPEG writes past a smaller one where it does not scale after all. The pages
        # that it does not write to cost nothing.
        room = np.empty(int(width) * int(height) * (3 if colour == "rgb" else 1), np.uint8)
        pixels = simplejpeg.decode_jpeg(
            data, target, fastdct=False, fastupsample=False, min_factor=factor, strict=True, buffer=room, **least
        )
    except ValueError as error:
        if any(damage in str(error) for damage in JPEG_DAMAGE):
            raise BadImage("the JPEG image is truncated or corrupt") from error
        return None
    return upright(pixels, _jpeg_orientation(data))


def _scans(data: bytes) -> int:
    """Return how often a scan's marker stands in a JPEG (by numpy: `bytes.count` takes a millisecond a megabyte)."""
    codes = np.frombuffer(data, np.uint8)
    after = np.flatnonzero(codes[:-1] == JPEG_SCAN[0]) + 1
    return int(np.count_nonzero(codes[after] == JPEG_SCAN[1]))


def _scale(side: int, smallest: int | None) -> int:
    """Return by how much to decode a JPEG smaller, whose shorter side has so many pixels: 8, 4, 2 or 1.

    libjpeg's other scales, such as 3/8, differ visibly from decoding in full.
    """
    wanted = math.inf if smallest is None else SCALED_MARGIN * smallest
    return next((factor for factor in (8, 4, 2) if -(-side // factor) >= wanted), 1)


def _has_dct(data: bytes) -> bool:
    """Return whether a JPEG is surely of the kind that can be scaled while it is decoded: not lossless, well-formed."""
    place = 2
    while data[place : place + 1] == b"\xff":
        marker = data[place + 1 : place + 2]
        if marker == b"\xff":  # filling
            place += 1
            continue
        if marker in JPEG_FRAMES:
            return marker in JPEG_DCT_FRAMES
        length = int.from_bytes(data[place + 2 : place + 4])
        if length < 2 or not b"\xc0" <= marker <= b"\xfe" or b"\xd0" <= marker <= b"\xda":
            return False
        place += 2 + length
    return False


def _jpeg_orientation(data: bytes) -> int:
    head = data[:METADATA_BYTES]
    if b"Exif\0\0" not in head and b"tiff:Orientation" not in head:
        return 1
    try:
        with JpegImageFile(io.BytesIO(data)) as image:
            return _orientation(image)
    except Exception:  # unreadable metadata of a good picture: it stays as it was stored
        return 1


def _decode_with_pillow(data: bytes, colour: Colour, limits: Limits) -> Pixels:
    name = _format(data[:16])
    try:
        # The plug-in itself, not Image.open: that has a limit on pixels of its own, and asks plug-ins not served.
        with SERVED[name](io.BytesIO(data)) as image:
            limits.check_pixels(*image.size)
            image.load()
            return upright(to_array(image, colour), _orientation(image))
    except RequestError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the {name} image has more than the limit of {limits.max_pixels} pixels") from error
    except Exception as error:  # on hostile bytes decoders raise nearly anything, MemoryError and SyntaxError included
        reason = ascii(str(error) or type(error).__name__)[1:-1][:120]
        if "nsupported" in reason:
            raise UnsupportedFormat(f"{name} images of this kind are not served: {reason}") from error
        raise BadImage(f"the {name} image is truncated or corrupt: {reason}") from error


def _format(start: bytes) -> str:
    """Return the name of the served format that begins so.

    Raises:
        UnsupportedFormat: it begins as an image that is not served.
        BadImage: it begins as no image does.
    """
    if start.startswith(JPEG_START):
        return "JPEG"
    for name in SERVED:
        if _begins(name, start):
            return name
    # Only names are taken from the other plug-ins; none of them ever opens a client's bytes.
    Image.init()
    for name in Image.ID:
        if _begins(name, start):
            raise UnsupportedFormat(f"{name} images are not served; send one of {', '.join(SERVED)}")
    if start[4:8] == b"ftyp":
        raise UnsupportedFormat(f"HEIF images and films are not served; send one of {', '.join(SERVED)}")
    raise BadImage(f"the bytes are not an image; send one of {', '.join(SERVED)}")


def _begins(name: str, start: bytes) -> bool:
    accept = Image.OPEN[name][1]
    try:
        return accept is not None and accept(start) is True
    except Exception:  # some plug-ins index into a start that is shorter than they expect
        return False


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation (1 to 8) that is still to be applied to a loaded image."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # unreadable metadata of a good picture: it stays as it was stored
        return 1
    return value if value in range(1, 9) else 1


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn and mirror (H, W, C) pixels as their EXIF orientation asks (EXIF 2.32, tag 0x0112)."""
    if orientation == 1:
        return pixels
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels.copy()  # where a side is 1, numpy calls a view turned round contiguous, and torch does not


def _silence_pillow() -> None:
    """Keep Pillow's remarks on odd files from the log: what a client must know is in the error that it gets.

    The filter stays, since `warnings.catch_warnings` is not safe where several threads decode. Setting it again for
    each image costs a microsecond and survives a caller's own `catch_warnings`.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    _set_up_pillow()


@functools.cache
def _set_up_pillow() -> None:
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    # As many threads as cores is AVIF's default, for every worker at once.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    # libtiff writes to stderr itself, hundreds of lines for a hostile file. Pillow offers no switch: ask the library.
    library = ctypes.CDLL(_imaging.__file__)
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        with contextlib.suppress(AttributeError):  # a build of Pillow without libtiff
            handler = getattr(library, name)
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)
