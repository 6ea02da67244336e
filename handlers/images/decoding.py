"""Encoded bytes to pixels: `decode` is the one way in, for preparing, evaluating and serving alike.

simplejpeg (libjpeg-turbo) decodes JPEG, Pillow every other format. Nothing is decoded before its header has
been checked against the limits, and whatever a decoder raises on hostile bytes comes out as a `RequestError`.
"""

import functools
import logging
from collections.abc import Callable

import torch
from PIL import Image

from handlers.errors import OF_HOSTILE_BYTES, BadImage, RequestError, TooLarge, UnsupportedFormat
from handlers.images import jpeg
from handlers.images.colours import to_array
from handlers.images.kinds import START_BYTES, kind_of
from handlers.images.limits import DEFAULT_LIMITS, Limits
from handlers.images.orientation import Pixels, orientation, upright
from handlers.images.pillow import FORMATS, begins_as, check_decoder, open_image, silence
from handlers.spec import Colour

Buffer = bytes | bytearray | memoryview
OnHeader = Callable[[int, int], None]


def _nothing(width: int, height: int) -> None:
    """Take note of nothing."""


def decode(
    data: Buffer,
    *,
    colour: Colour = "rgb",
    limits: Limits = DEFAULT_LIMITS,
    smallest: int | None = None,
    on_header: OnHeader = _nothing,
) -> torch.Tensor:
    """Decode one image as a person looking at it sees it: upright, on white, the first frame of an animation.

    Args:
        data: the encoded image, of one of the formats `FORMATS`; recognized by its first bytes.
        colour: "rgb", or "grey" for luminance.
        limits: checked against the header, before anything is decoded.
        smallest: the side in pixels that the image is to be shrunk to; a JPEG whose sides stay longer than that is
            decoded at half, a quarter or an eighth of its size, which takes a fraction of the time: libjpeg leaves
            out the high frequencies that shrinking would take away. None: every image in full.
        on_header: called with width and height before pixels are decoded; several times for some JPEG files.

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
    silence()
    data = bytes(data)  # the only copy
    name = _format(data[:START_BYTES])
    try:
        if name == "JPEG":
            pixels = jpeg.decode_jpeg(data, colour, limits, smallest, on_header)
        else:
            pixels = _decode_with_pillow(name, data, colour, limits, on_header)
    except RequestError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the {name} image has more than the limit of {limits.max_pixels} pixels") from error
    except Exception as error:  # on hostile bytes decoders raise nearly anything, MemoryError and SyntaxError included
        if not isinstance(error, (*OF_HOSTILE_BYTES, MemoryError)):
            _tell(type(error).__name__)
        reason = ascii(str(error) or type(error).__name__)[1:-1][:120]
        if "nsupported" in reason:
            raise UnsupportedFormat(f"{name} images of this kind are not served: {reason}") from error
        raise BadImage(f"the {name} image is truncated or corrupt: {reason}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decode_with_pillow(name: str, data: bytes, colour: Colour, limits: Limits, on_header: OnHeader) -> Pixels:
    with open_image(name, data) as image:
        limits.check_pixels(*image.size)
        check_decoder(image, len(data))
        on_header(*image.size)
        frame = image.tile[0].extents if image.tile else None
        image.load()
        pixels = to_array(image, colour)
        if name == "GIF" and frame is not None:
            _whiten_outside(pixels, frame)
        return upright(pixels, orientation(image))


def _whiten_outside(pixels: Pixels, frame: tuple[int, int, int, int]) -> None:
    """Make the canvas of a GIF white where its first frame does not reach: Pillow fills it with a colour of its map."""
    left, top, right, bottom = frame
    for outside in (pixels[:top], pixels[bottom:], pixels[:, :left], pixels[:, right:]):
        outside[:] = 255


@functools.cache
def _tell(kind: str) -> None:
    """Write an error into the log that may be a fault of ours, once each kind."""
    logging.getLogger(__name__).exception("unexpected %s while decoding an image (possible bug)", kind)


def _format(start: bytes) -> str:
    """Return the name of the served format that begins so.

    Raises:
        UnsupportedFormat: it begins as an image that is not served.
        BadImage: it begins as no image does.
    """
    if start.startswith(jpeg.START):
        return "JPEG"
    for name in FORMATS:
        if begins_as(name, start[:16]):
            return name
    # Only names are taken from the other plug-ins; none of them ever opens a client's bytes.
    Image.init()
    kind = kind_of(start) or next((f"{name} images" for name in Image.ID if begins_as(name, start[:16])), "")
    if kind:
        raise UnsupportedFormat(f"{kind} are not served; send one of {', '.join(FORMATS)}")
    raise BadImage(f"the bytes are not an image; send one of {', '.join(FORMATS)}")
