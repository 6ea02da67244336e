"""The cost of an image for a worker, by its header: pixels, and seconds of a processor to decode and resize it.

The rates are the worst that `python -m tests.campaigns.decode_costs` finds on one core of a processor, rounded up:
files of few bytes, which cost by their pixels, turned by their EXIF orientation, and noise, which costs by its bytes.
"""

import contextlib
import dataclasses

from handlers.errors import RequestError
from handlers.images import jpeg
from handlers.images.decoding import Buffer, decode
from handlers.images.limits import Limits
from handlers.images.pillow import PYTHON_PIXELS


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """Pixels, and seconds of one core."""

    pixels: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """Milliseconds for each million pixels, each million encoded bytes, and each million pixels of a further scan."""

    pixels: float
    data: float
    scans: float = 0.0

    def seconds(self, pixels: int, size: int, scans: int = 0) -> float:
        """Return the seconds for an image of these pixels, encoded bytes and further scans."""
        return ((self.pixels + self.scans * scans) * pixels + self.data * size) / 1e9


CMYK = Rate(9, 12)
PROGRESSIVE = Rate(5, 30, 0.2)
PROGRESSIVE_FRAMES = (b"\xc2", b"\xc6", b"\xca", b"\xce")  # ITU T.81, table B.1
IN_PYTHON = Rate(1500, 1)  # a PPM that is small enough for its pixels to be read one by one
# By the first bytes of a file; an AVIF begins with a length, and matches none of these.
RATES = {
    jpeg.START: Rate(5, 8),
    b"\x89PNG": Rate(19, 35),
    b"GIF8": Rate(12, 5),
    b"BM": Rate(6, 5),
    b"II": Rate(28, 55),
    b"MM": Rate(28, 55),
    b"RIFF": Rate(27, 45),  # of WebP
    b"P": Rate(5, 5),  # of PPM
}
AVIF = Rate(15, 75)
ON_DEVICE = Rate(0.5, 1)  # a JPEG that a GPU decodes: of the processor little more than its bytes on their way


class _Header(RequestError):
    """The header has been read, and nothing else is."""


def cost_of(image: Buffer, limits: Limits) -> Cost:
    """Return the cost of an encoded image, from its header; nothing is decoded.

    Raises:
        RequestError: as `decode` does, for errors in the header.
    """
    pixels = 0

    def on_header(width: int, height: int) -> None:
        nonlocal pixels
        pixels = width * height
        raise _Header

    with contextlib.suppress(_Header):
        decode(image, limits=limits, on_header=on_header)
    return Cost(pixels, _seconds(image, pixels))


def _seconds(image: Buffer, pixels: int) -> float:
    start = bytes(image[:4])
    rate = next((rate for first, rate in RATES.items() if start.startswith(first)), AVIF)
    scans = 0
    if start.startswith(jpeg.START):
        frame = jpeg.frame_of(bytes(image[: jpeg.METADATA_BYTES]))
        if frame is None or frame.marker in PROGRESSIVE_FRAMES:
            rate, scans = PROGRESSIVE, jpeg.scans(bytes(image))
        elif len(frame.components) == 4:
            rate = CMYK
    elif start.startswith(b"P") and pixels <= PYTHON_PIXELS["ppm"]:
        rate = IN_PYTHON
    return rate.seconds(pixels, len(image), scans)
