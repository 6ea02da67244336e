"""Pillow's plugins for the supported formats, with a bound on work done in Python.

Most of an image is decoded in C. Parsing in Python (segments, chunks, tags, text, runs) can take a minute for a
crafted file of a few megabytes.
"""

import contextlib
import ctypes
import functools
import logging
import warnings
from collections.abc import Callable

from PIL import AvifImagePlugin, Image, ImageFile, _imaging
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.WebPImagePlugin import WebPImageFile

from handlers.errors import OF_HOSTILE_BYTES, BadImage, UnsupportedFormat
from handlers.images import jpeg
from handlers.images.avif import Avif
from handlers.images.kinds import kind_of
from handlers.images.limits import BoundedReads
from handlers.images.tiff import Tiff

# Format -> chunks that make Pillow start again, and their limit in a file: a picture has one or two.
PIECES = {"PNG": ((b"iCCP", 16),)}
TEXT_BYTES = 2**17  # of a picture in text (PPM's P1 to P3)
# Decoders in Python -> pixels. A run of a BMP is two reads, a pixel of a PPM that is not of 8 bits three.
PYTHON_PIXELS = {"bmp_rle": 2**20, "ppm": 2**17}

GREY_LEVELS = {"L;2": 85, "L;4": 17}  # Pillow makes 8 bits of 2 and of 4


class Png(PngImageFile):
    """A PNG whose transparent grey has the bits of Pillow's greys, and that has no more alphas than colours."""

    def _open(self) -> None:
        super()._open()
        key, rawmode = self.info.get("transparency"), self.tile[0].args if self.tile else ""
        if isinstance(key, int) and isinstance(rawmode, str):
            self.info["transparency"] = key * GREY_LEVELS.get(rawmode, 1)
        if isinstance(key, bytes) and self.palette and len(key) > len(self.palette.palette) // 3:
            del self.info["transparency"]  # as libpng, and so everyone, does


FORMATS: dict[str, Callable[[BoundedReads], ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": Png,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": Tiff,
    "WEBP": WebPImageFile,
    "PPM": PpmImageFile,
    "AVIF": Avif,
}


def begins_as_image(start: bytes) -> bool:
    """Return whether a file is an image or a film, of a served format or not, by its first `START_BYTES` bytes."""
    if start[:3] == jpeg.START or start[4:8] == b"ftyp" or kind_of(start).endswith(("images", "drawings")):
        return True
    # Only names are taken from the other plug-ins; none of them ever opens a client's bytes.
    Image.init()
    return any(begins_as(name, start[:16]) for name in (*FORMATS, *Image.ID))


def begins_as(name: str, start: bytes) -> bool:
    """Return whether Pillow's reader of a format accepts the first bytes of a file."""
    accept = Image.OPEN[name][1]
    try:
        return accept is not None and accept(start) is True
    except OF_HOSTILE_BYTES:  # of a start shorter than it expects
        return False


def open_image(name: str, data: bytes) -> ImageFile.ImageFile:
    """Return an image of a format of `FORMATS`, of which only the header has been read.

    The plug-in itself opens it, not Image.open: that has another limit on pixels, and asks plug-ins of other formats.

    Raises:
        BadImage: it is in more pieces than a picture is.
        UnsupportedFormat: it asks for what Pillow does not do.
        Exception: nearly anything, on hostile bytes.
    """
    for mark, limit in PIECES.get(name, ()):
        if data.count(mark) > limit:
            raise BadImage(f"the {name} image has more than {limit} pieces {mark.decode()!a}")
    return FORMATS[name](BoundedReads(data))


def check_decoder(image: ImageFile.ImageFile, size: int) -> None:
    """Refuse an image of `size` bytes that Pillow would decode in Python, unless it is small.

    Raises:
        UnsupportedFormat: with what to send in its place.
    """
    decoder = image.tile[0].codec_name if image.tile else ""
    width, height = image.size
    if (decoder == "ppm_plain" and size > TEXT_BYTES) or width * height > PYTHON_PIXELS.get(decoder, width * height):
        raise UnsupportedFormat(f"{image.format} images of this kind ({decoder}) are not served: send it as a PNG")


def silence() -> None:
    """Keep Pillow's remarks on odd files from the log: a client gets the reason in its error.

    The filter stays, since `warnings.catch_warnings` is not safe where several threads decode. Setting it again for
    each image costs a microsecond and survives a caller's own `catch_warnings`.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    _set_up()


@functools.cache
def _set_up() -> None:
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
