"""A body that a client has compressed, by its Content-Encoding, unpacked within the limits of a request."""

import zlib

from handlers.errors import BadRequest, TooLarge, UnsupportedFormat
from handlers.requests import payload
from handlers.settings import Settings

GZIP, ZLIB, RAW = 31, 15, -15  # zlib's window sizes, which also name the header
MAX_DOCUMENT = 25 << 20  # bytes of a JSON document: the limit of config.properties for an uncompressed one
OF_A_FORM = "a form is not unpacked: send it without Content-Encoding"


def coding(header: str) -> str:
    """Return the one coding that a header names, in lower case; "" if it changes nothing.

    Raises:
        UnsupportedFormat: a coding other than gzip and deflate, or several.
    """
    codings = [name for name in (part.strip().lower() for part in header.split(",")) if name not in ("", "identity")]
    if len(codings) > 1 or not {*codings} <= {"gzip", "x-gzip", "deflate"}:
        raise UnsupportedFormat("Content-Encoding must be gzip or deflate, once; or send the body as it is")
    return codings[0] if codings else ""


def unpack(body: bytes | bytearray, name: str, settings: Settings) -> bytes | bytearray:
    """Return the content of a body of coding `name`.

    Raises:
        BadRequest: it is damaged, or of another coding.
        TooLarge: it holds more than one image, or the images of one request, may have.
    """
    if not name or not body:
        return body
    window = GZIP if name != "deflate" else ZLIB if _has_zlib_header(body) else RAW
    limit = settings.max_bytes
    content = _inflate(body, window, limit)
    if len(content) > limit and payload.is_json(content):
        limit = min(MAX_DOCUMENT, settings.max_images * (limit * 4 // 3 + 256))
        content = _inflate(body, window, limit)
    if len(content) > limit:
        raise TooLarge(f"the body unpacks to more than the limit of {limit} bytes")
    return content


def _inflate(body: bytes | bytearray, window: int, limit: int) -> bytearray:
    """Return the unpacked content of a body, or its first `limit` + 1 bytes of it."""
    decompressor = zlib.decompressobj(window)
    try:
        content = bytearray(decompressor.decompress(body, limit + 1))
    except zlib.error:
        raise BadRequest("the body is damaged, or not packed as its Content-Encoding says") from None
    if len(content) <= limit and (not decompressor.eof or decompressor.unused_data):
        raise BadRequest("the body ends before or after what its Content-Encoding packs: send it whole, as one member")
    return content


def _has_zlib_header(body: bytes | bytearray) -> bool:
    return body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
