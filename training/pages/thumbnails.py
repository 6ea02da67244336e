"""Thumbnails as data URLs, so that a page of images is one file."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from handlers.images.decoding import decode
from handlers.images.limits import UNLIMITED
from handlers.spec import Colour
from training.data.decoders import read_bytes
from training.data.records import Record

SIDE, QUALITY = 112, 72  # pixels of the longer side, and of the JPEG: 3 to 5 kB a thumbnail


class Thumbnails:
    """Draws images on disk, each once; `record` gives the location of the image with a number."""

    def __init__(self, raw: Path, colour: Colour, record: Callable[[int], Record]) -> None:
        self._raw, self._colour, self._record = raw, colour, record
        self._urls: dict[int, str] = {}

    def url(self, number: int) -> str:
        """Return the data URL of an image's thumbnail, in its own shape.

        Raises:
            DatasetError: the file cannot be read any more.
        """
        if number not in self._urls:
            self._urls[number] = thumbnail(read_bytes(self._raw, self._record(number)), self._colour)
        return self._urls[number]


def thumbnail(encoded: bytes, colour: Colour) -> str:
    """Return the data URL of the thumbnail of an encoded image, in its own shape.

    Raises:
        RequestError: it cannot be decoded.
    """
    pixels = decode(encoded, colour=colour, limits=UNLIMITED, smallest=SIDE)
    values = pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return data_url("image/jpeg", buffer.getvalue())


def data_url(kind: str, content: bytes) -> str:
    """Return the content of a file as a URL that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
