"""Thumbnails as data URLs, so that a page of images is one file."""

import base64
import io

from PIL import Image

from handlers.images.decoding import decode
from handlers.images.limits import UNLIMITED
from training.data.decoders import read_bytes
from training.data.store import PreparedDataset

SIDE, QUALITY = 112, 72  # pixels of the longer side, and of the JPEG: 3 to 5 kB a thumbnail


class Thumbnails:
    """Draws rows of a data set from the images on disk, each once."""

    def __init__(self, data: PreparedDataset) -> None:
        self._data = data
        self._urls: dict[int, str] = {}

    def url(self, row: int) -> str:
        """Return the data URL of a row's thumbnail, in its own shape.

        Raises:
            DatasetError: the file cannot be read any more.
        """
        if row not in self._urls:
            encoded = read_bytes(self._data.raw, self._data.record(row))
            pixels = decode(encoded, colour=self._data.colour, limits=UNLIMITED, smallest=SIDE)
            values = pixels.permute(1, 2, 0).numpy()
            image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
            image.thumbnail((SIDE, SIDE))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=QUALITY)
            self._urls[row] = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return self._urls[row]
