"""JPEG to pixels by libjpeg-turbo, at a part of the size where that is enough."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from handlers.errors import BadImage
from handlers.limits import Limits
from handlers.orientation import Pixels, orientation, upright
from handlers.spec import Colour

START = b"\xff\xd8\xff"
SCAN = b"\xff\xda"
# A progressive photograph has about ten scans. Every scan costs a pass over the whole image however few bytes it has.
MAX_SCANS = 100
# What libjpeg-turbo says where pixels are lost. Its other remarks (stray bytes between markers, odd version numbers)
# leave the picture whole: Pillow reads those files.
DAMAGE = ("remature end", "bad Huffman code", "instead of RST")
# The second bytes of the markers that begin a frame (ITU T.81, table B.1); C3, C7, CB and CF are lossless.
FRAMES = tuple(bytes([code]) for code in range(0xC0, 0xD0) if code not in (0xC4, 0xC8, 0xCC))
ADOBE, METADATA = b"\xee", b"\xe1"
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
DCT_FRAMES = tuple(marker for marker in FRAMES if marker[0] % 4 != 3)
# A JPEG decoded at a part of its size keeps so much more than it is shrunk to, for the antialiasing to work on.
SCALED_MARGIN = 1.25
METADATA_BYTES = 2**17
MAX_SEGMENTS = 4096  # and bytes of filling; a colour profile may take 255 of them


def decode_jpeg(
    data: bytes, colour: Colour, limits: Limits, smallest: int | None, sized: Callable[[int, int], None]
) -> Pixels | None:
    """Return the pixels of a JPEG, uint8 of shape (H, W, C), or None where it is for Pillow to read or to refuse.

    `smallest` is the side in pixels that it is to be shrunk to, `sized` is told of its own (see `decode`).

    Raises:
        BadImage: truncated, corrupt, or of more than `MAX_SCANS` scans.
        TooLarge: more pixels than the limits.
    """
    if _scans(data) > MAX_SCANS:
        raise BadImage(f"the JPEG image has more than {MAX_SCANS} scans")
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=True)
        limits.check_pixels(int(width), int(height))
        sized(int(width), int(height))
        if space in ("CMYK", "YCCK"):
            return None
        target = "RGB" if colour == "rgb" else "GRAY"
        frame = frame_of(data)
        factor = _scale(min(int(width), int(height)), smallest) if frame is not None and frame.has_dct else 1
        least = {"min_height": -(-int(height) // factor), "min_width": -(-int(width) // factor)}
        # Room for the whole image: TurboJPEG writes past a smaller one where it does not scale after all. The pages
        # that it does not write to cost nothing.
        room = np.empty(int(width) * int(height) * (3 if colour == "rgb" else 1), np.uint8)
        pixels = simplejpeg.decode_jpeg(
            data, target, fastdct=False, fastupsample=False, min_factor=factor, strict=True, buffer=room, **least
        )
    except ValueError as error:
        if any(damage in str(error) for damage in DAMAGE):
            raise BadImage("the JPEG image is truncated or corrupt") from error
        return None
    return upright(pixels, orientation_of(data))


def _scans(data: bytes) -> int:
    """Return how often a scan's marker stands in a JPEG (by numpy: `bytes.count` takes a millisecond a megabyte)."""
    codes = np.frombuffer(data, np.uint8)
    after = np.flatnonzero(codes[:-1] == SCAN[0]) + 1
    return int(np.count_nonzero(codes[after] == SCAN[1]))


def _scale(side: int, smallest: int | None) -> int:
    """Return by how much to decode a JPEG smaller, whose shorter side has so many pixels: 8, 4, 2 or 1.

    libjpeg's other scales, such as 3/8, differ visibly from decoding in full.
    """
    wanted = math.inf if smallest is None else SCALED_MARGIN * smallest
    return next((factor for factor in (8, 4, 2) if -(-side // factor) >= wanted), 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """What the header of a JPEG says of its frame: the marker's second byte, pixels, components (ITU T.81, B.2.2).

    `components` holds the identifier of each. `adobe` is the colour transform of an Adobe marker before it: 0 RGB or
    CMYK, 1 YCbCr, 2 YCCK; None without one.
    """

    marker: bytes
    width: int
    height: int
    components: bytes
    adobe: int | None

    @property
    def has_dct(self) -> bool:
        """Return whether it can be scaled while it is decoded: all but the lossless ones."""
        return self.marker in DCT_FRAMES


def frame_of(data: bytes) -> Frame | None:
    """Return the frame of a JPEG, or None where what stands before it is not well-formed, or is too much."""
    adobe = None
    for marker, segment in _segments(data):
        if marker == ADOBE and segment.startswith(b"Adobe") and len(segment) >= 12:
            adobe = segment[11]
        if marker in FRAMES:
            if len(segment) < 6:
                return None
            height, width = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
            return Frame(marker, width, height, segment[6::3][: segment[5]], adobe)
    return None


def _segments(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the second byte of each marker and what stands in its segment, up to the pixels or to what is malformed."""
    place = 2
    for _ in range(MAX_SEGMENTS):
        if data[place : place + 1] != b"\xff":
            return
        marker = data[place + 1 : place + 2]
        if marker == b"\xff":  # filling
            place += 1
            continue
        length = int.from_bytes(data[place + 2 : place + 4])
        if length < 2 or not b"\xc0" <= marker <= b"\xfe" or b"\xd0" <= marker <= b"\xda":
            return
        yield marker, data[place + 4 : place + 2 + length]
        place += 2 + length


def orientation_of(data: bytes | bytearray | memoryview) -> int:
    """Return the orientation (1 to 8) that a JPEG's metadata asks for."""
    head = bytes(data[:METADATA_BYTES])
    if EXIF not in head and b"tiff:Orientation" not in head:
        return 1
    # Not by Pillow's reader of JPEG files: it takes minutes for one of 20 MB that was made for that.
    found: dict[str | tuple[int, int], Any] = {}
    for marker, segment in _segments(bytes(data[: METADATA_BYTES + 2**16])):  # the last one may begin in the head
        if marker == METADATA and segment.startswith(EXIF):
            found["exif"] = found.get("exif", b"") + (segment[len(EXIF) :] if "exif" in found else segment)
        elif marker == METADATA and segment.startswith(XMP):
            found["xmp"] = segment[len(XMP) :]
    image = Image.new("L", (1, 1))
    image.info = found
    return orientation(image)
