"""JPEG to pixels by libjpeg-turbo, at a part of the size if that is enough.

libjpeg-turbo reports the first of its remarks only, and Pillow none. A file with a remark is therefore decoded again
from a copy without metadata, filling and stray bytes: a remark on that copy is one on its pixels.
"""

import dataclasses
import io
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from handlers.errors import BadImage, UnsupportedFormat
from handlers.images.colours import to_array
from handlers.images.limits import Limits
from handlers.images.orientation import Pixels, orientation, upright
from handlers.spec import Colour

START = b"\xff\xd8\xff"
SCAN = b"\xff\xda"
# A progressive photograph has about ten scans. Every scan costs a pass over the whole image however few bytes it has.
MAX_SCANS = 100
# Sampling factors that TurboJPEG has no name for: Pillow's libjpeg reads them.
ODD_SAMPLING = "subsampling"
MORE_PIXELS = bytes((165 + 97 * place) % 255 for place in range(256))
# Bytes between the last pixels and the end of the image, all alike, that some cameras fill up with.
FILLING = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9")
# The second bytes of the markers that begin a frame (ITU T.81, table B.1); C3, C7, CB and CF are lossless.
FRAMES = tuple(bytes([code]) for code in range(0xC0, 0xD0) if code not in (0xC4, 0xC8, 0xCC))
ARITHMETIC = tuple(marker for marker in FRAMES if marker[0] > 0xC8)
HIERARCHICAL = tuple(marker for marker in FRAMES if marker[0] & 7 >= 5)
ADOBE, METADATA = b"\xee", b"\xe1"
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
DCT_FRAMES = tuple(marker for marker in FRAMES if marker[0] % 4 != 3)
# A JPEG that is decoded smaller keeps at least this many times its final side: antialiasing averages these pixels.
SCALED_MARGIN = 1.25
METADATA_BYTES = 2**17
MAX_SEGMENTS = 4096  # and bytes of filling; a colour profile may take 255 of them

SOI, EOI, SOS, DNL, LS = 0xD8, 0xD9, 0xDA, 0xDC, 0xF7  # markers' second bytes; LS begins a frame of JPEG-LS
PIXELS = 0  # marks the data after the header of a scan
NO_PARAMETERS = frozenset((0x01, *range(0xD0, 0xD8)))
NO_LENGTH = NO_PARAMETERS | {SOI, EOI}
APP0, COMMENT = 0xE0, 0xFE
# Metadata, comments and the like: pixels do not need them.
NOT_PIXELS = NO_PARAMETERS | {*range(APP0, APP0 + 16), COMMENT, DNL}
# Up to a marker, in one pass over the bytes before it; among pixels, some markers restart the decoder.
MARKER = re.compile(rb"(?:[^\xff]*+\xff++\0)*+[^\xff]*+\xff++[\x01-\xfe]")
MARKER_AFTER_PIXELS = re.compile(rb"(?:[^\xff]*+\xff++[\0\xd0-\xd7])*+[^\xff]*+\xff++[\x01-\xcf\xd8-\xfe]")
JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"


def decode_jpeg(
    data: bytes, colour: Colour, limits: Limits, smallest: int | None, on_header: Callable[[int, int], None]
) -> Pixels:
    """Return the pixels of a JPEG, uint8 of shape (H, W, C).

    `smallest` is the side in pixels that it is to be shrunk to; `on_header` is called with its size (see `decode`).

    Raises:
        BadImage: truncated, corrupt, or of more than `MAX_SCANS` scans.
        TooLarge: more pixels than the limits.
        UnsupportedFormat: of a kind of JPEG that is not served.
    """
    if scans(data) > MAX_SCANS:
        raise BadImage(f"the JPEG image has more than {MAX_SCANS} scans")
    try:
        pixels = _decode(data, colour, limits, smallest, on_header)
    except ValueError:
        pixels = _decode_plain(plain(data), colour, limits, smallest, on_header)
    return upright(pixels, orientation_of(data))


def _decode_plain(
    data: bytes, colour: Colour, limits: Limits, smallest: int | None, on_header: Callable[[int, int], None]
) -> Pixels:
    try:
        return _decode(data, colour, limits, smallest, on_header)
    except ValueError as error:
        reason = str(error)
    if FILLING.match(reason):
        pixels = data[:-2].rstrip(data[-3:-2])
        pixels += b"\0" if pixels.endswith(b"\xff") else b""  # which belongs to the FF
        try:
            return _decode(pixels + data[-2:], colour, limits, smallest, on_header)
        except ValueError as error:  # a damaged file that was filled up: its pixels are too few
            reason = str(error)
    if ODD_SAMPLING in reason:
        return _decode_odd_sampling(data, colour, limits, on_header)
    if "nsupported" in reason and "marker" not in reason:
        raise UnsupportedFormat(f"JPEG images of this kind are not served: {reason}")
    raise BadImage(f"the JPEG image is truncated or corrupt: {reason}")


def _decode(
    data: bytes, colour: Colour, limits: Limits, smallest: int | None, on_header: Callable[[int, int], None]
) -> Pixels:
    """Decode by TurboJPEG, which has to be content: raises a ValueError with the first of its remarks."""
    frame = frame_of(data)
    if frame is None:
        raise ValueError("it has no frame")
    _check_kind(frame)
    height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=True)
    limits.check_pixels(int(width), int(height))
    on_header(int(width), int(height))
    _check_components(data, frame)
    mode = "RGB" if colour == "rgb" else "GRAY"
    target = _target(mode, str(space), frame)
    factor = _scale(min(int(width), int(height)), smallest) if frame.has_dct else 1
    min_size = {"min_height": -(-int(height) // factor), "min_width": -(-int(width) // factor)}
    # A buffer for the whole image: TurboJPEG writes past a smaller one if it does not scale after all. Pages that it
    # does not write to cost nothing.
    room = np.empty(int(width) * int(height) * CHANNELS[target], np.uint8)
    pixels: Pixels = simplejpeg.decode_jpeg(
        data, target, fastdct=False, fastupsample=False, min_factor=factor, strict=True, buffer=room, **min_size
    )
    return pixels if target == mode else _converted(pixels, target, colour)


CHANNELS = {"RGB": 3, "GRAY": 1, "CMYK": 4}


def _target(mode: str, space: str, frame: "Frame") -> str:
    """Return the colours that TurboJPEG is to give: it converts neither ink nor lossless images."""
    if space in ("CMYK", "YCCK"):
        return "CMYK"
    return mode if frame.has_dct else "GRAY" if space == "Gray" else "RGB"


def _converted(pixels: Pixels, target: str, colour: Colour) -> Pixels:
    if target == "CMYK":
        np.subtract(255, pixels, out=pixels)  # as Adobe, and so everyone, stores ink
        size = (pixels.shape[1], pixels.shape[0])
        return to_array(Image.frombuffer("CMYK", size, pixels, "raw", "CMYK", 0, 1), colour)
    return to_array(Image.fromarray(pixels if target == "RGB" else pixels[:, :, 0]), colour)


def _decode_odd_sampling(data: bytes, colour: Colour, limits: Limits, on_header: Callable[[int, int], None]) -> Pixels:
    """Decode by Pillow, which says nothing of pixels that are missing: what follows them must change nothing."""
    images = []
    for copy in (data, plain(data, after_pixels=MORE_PIXELS)):
        with JpegImageFile(io.BytesIO(copy)) as image:
            limits.check_pixels(*image.size)
            on_header(*image.size)
            image.load()
            images.append(to_array(image, colour))
    if not np.array_equal(images[0], images[1]):
        raise BadImage("the JPEG image is truncated or corrupt: its pixels end too early")
    return images[0]


def _check_kind(frame: "Frame") -> None:
    """Raise UnsupportedFormat for a kind of JPEG that libjpeg-turbo does not read, or not without damage unseen."""
    if not (2 <= frame.bits <= 16 and frame.width):
        raise BadImage("the JPEG image is truncated or corrupt: its frame cannot be")
    if frame.marker in HIERARCHICAL:
        kind = "in several sizes (hierarchical)"
    elif frame.marker in ARITHMETIC:
        kind = "with arithmetic coding"
    elif frame.bits != 8:
        kind = f"of {frame.bits} bits a sample"
    elif not frame.height:
        kind = "whose height comes after their pixels (DNL)"
    elif len(frame.components) not in (1, 3, 4):
        kind = f"of {len(frame.components)} components"
    else:
        return
    raise UnsupportedFormat(
        f"JPEG images {kind} are not served; send a baseline or progressive JPEG of 8 bits, or a PNG"
    )


def _check_components(data: bytes, frame: "Frame") -> None:
    """Raise BadImage where no scan brings the mean level of some component: libjpeg shows it grey."""
    missing = set(frame.components)
    for marker, start, end in parts(data, frame.end):
        if marker == SOS:
            missing -= _mean_levels(data[start + 2 : end], frame)
            if not missing:
                return
    raise BadImage("the JPEG image is truncated or corrupt: a scan is missing")


def _mean_levels(scan: bytes, frame: "Frame") -> set[int]:
    """Return the components whose mean level a scan brings, by its header from the number of components on."""
    end = 1 + 2 * scan[0] if scan else 0
    has_mean_levels = scan[end : end + 1] == b"\0" or not frame.has_dct
    return set(scan[1:end:2]) if has_mean_levels else set()


def parts(data: bytes, place: int = 2) -> Iterator[tuple[int, int, int]]:
    """Yield the second byte of each marker, and where its parameters begin and end, as libjpeg finds them.

    The pixels after the header of a scan are a separate part, `PIXELS`. Begins at `place`, and ends at the end
    of the image, whatever follows it.

    Raises:
        BadImage: there are more than `MAX_SEGMENTS`.
    """
    for _ in range(MAX_SEGMENTS):
        match = MARKER.match(data, place)
        if match is None:
            return
        marker, start = data[match.end() - 1], match.end()
        place = start
        if marker not in NO_LENGTH:
            place += max(2, int.from_bytes(data[start : start + 2]))
        yield marker, start, place
        if marker == EOI:
            return
        if marker == SOS:
            start, place = place, _end_of_pixels(data, place)
            yield PIXELS, start, place
    raise BadImage(f"the JPEG image is in more than {MAX_SEGMENTS:,} pieces")


def _end_of_pixels(data: bytes, place: int) -> int:
    match = MARKER_AFTER_PIXELS.match(data, place)
    return match.end() - 2 if match else len(data)


def plain(data: bytes, after_pixels: bytes = b"") -> bytes:
    """Return a JPEG with what its pixels need and nothing else, and `after_pixels` after the pixels of each scan.

    Raises:
        UnsupportedFormat: it is a JPEG-LS.
    """
    pieces, adobe = [b"\xff\xd8"], b""
    for marker, start, end in parts(data):
        part = data[start:end]
        if marker == PIXELS:
            pieces.append(_with_more(part, after_pixels))
        elif marker == ADOBE[0] and part[2:7] == b"Adobe" and len(part) >= 14:
            adobe = part
        else:
            if adobe and bytes([marker]) in FRAMES:
                pieces.append(_adobe(adobe, part))
            pieces.append(_segment(marker, part))
    return b"".join(pieces)


def _segment(marker: int, part: bytes) -> bytes:
    """Return a marker with its parameters, or nothing if the pixels do not need it."""
    if marker == LS:
        raise UnsupportedFormat("JPEG-LS images are not served; send a baseline or progressive JPEG, or a PNG")
    if marker == APP0 and part[2:7] == b"JFIF\0":
        return JFIF
    return b"" if marker in NOT_PIXELS else bytes([0xFF, marker]) + part


def _with_more(pixels: bytes, more: bytes) -> bytes:
    """Return the pixels of a scan with more of them at its end, and before each marker that restarts the decoder."""
    return re.sub(rb"(?=\xff[\xd0-\xd7])", more, pixels) + more if more else pixels


def _adobe(part: bytes, frame: bytes) -> bytes:
    """Return the marker of an Adobe file, with a transform that fits the components of its frame."""
    transform = part[13]
    if frame[7:8] == b"\3":
        transform = min(transform, 1)
    elif transform == 1:
        transform = 2
    return b"\xff" + ADOBE + b"\0\x0e" + part[2:13] + bytes([transform])


def scans(data: bytes) -> int:
    """Return the scans of a JPEG; at most the number of times that its marker's bytes occur."""
    # By numpy: `bytes.count` takes a millisecond a megabyte.
    codes = np.frombuffer(data, np.uint8)
    after = np.flatnonzero(codes[:-1] == SCAN[0]) + 1
    count = int(np.count_nonzero(codes[after] == SCAN[1]))
    # A film may follow the image, and its metadata may hold a small image.
    return count if count <= MAX_SCANS else sum(marker == SOS for marker, _, _ in parts(data))


def _scale(side: int, smallest: int | None) -> int:
    """Return the factor to decode a JPEG smaller, by the pixels of its shorter side: 8, 4, 2 or 1.

    libjpeg's other scales, such as 3/8, differ visibly from decoding in full.
    """
    min_side = math.inf if smallest is None else SCALED_MARGIN * smallest
    return next((factor for factor in (8, 4, 2) if -(-side // factor) >= min_side), 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """The frame header of a JPEG: the marker's second byte, pixels, components (ITU T.81, B.2.2).

    `components` holds the identifier of each. `adobe` is the colour transform of an Adobe marker before it: 0 RGB or
    CMYK, 1 YCbCr, 2 YCCK; None without one. `bits` are those of a sample, `end` is where the next marker begins.
    """

    marker: bytes
    width: int
    height: int
    components: bytes
    adobe: int | None
    bits: int = 8
    end: int = 2

    @property
    def has_dct(self) -> bool:
        """Return whether it can be scaled while it is decoded: all but the lossless ones."""
        return self.marker in DCT_FRAMES


def frame_of(data: bytes) -> Frame | None:
    """Return the frame of a JPEG, or None if the data before it is malformed or too long."""
    adobe = None
    for marker, segment, end in _segments(data):
        if marker == ADOBE and segment.startswith(b"Adobe") and len(segment) >= 12:
            adobe = segment[11]
        if marker in FRAMES:
            if len(segment) < 6:
                return None
            height, width = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
            return Frame(marker, width, height, segment[6::3][: segment[5]], adobe, segment[0], end)
    return None


def _segments(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield the second byte of each marker, its segment, and the end of that, up to the pixels or malformed data."""
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
        end = place + 2 + length
        yield marker, data[place + 4 : end], end
        place = end


def orientation_of(data: bytes | bytearray | memoryview) -> int:
    """Return the orientation (1 to 8) that a JPEG's metadata asks for."""
    head = bytes(data[:METADATA_BYTES])
    if EXIF not in head and b"tiff:Orientation" not in head:
        return 1
    # Not by Pillow's reader of JPEG files: it takes minutes for one of 20 MB that was made for that.
    metadata: dict[str | tuple[int, int], Any] = {}
    for marker, segment, _ in _segments(bytes(data[: METADATA_BYTES + 2**16])):  # the last one may begin in the head
        if marker == METADATA and segment.startswith(EXIF):
            metadata["exif"] = metadata.get("exif", b"") + (segment[len(EXIF) :] if "exif" in metadata else segment)
        elif marker == METADATA and segment.startswith(XMP):
            metadata["xmp"] = segment[len(XMP) :]
    image = Image.new("L", (1, 1))
    image.info = metadata
    return orientation(image)
