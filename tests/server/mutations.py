"""Damaged JPEG, PNG and WebP bodies: a body for each seed and number, always the same, made by one way of damage.

mutation(7, 123)    body 123 of seed 7, as every run of every machine makes it
"""

import dataclasses
import functools
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from synthetic.photograph import photograph

EXTREMES = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 0x7F, 0x80, 0xFE, 0xFF)  # of each byte of a field

# What Pillow is told to write: (format, mode, options).
WRITTEN: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("JPEG", "RGB", {}),
    ("JPEG", "RGB", {"progressive": True, "quality": 60}),
    ("JPEG", "RGB", {"subsampling": 0, "restart_marker_blocks": 2}),
    ("JPEG", "L", {"quality": 90}),
    ("JPEG", "CMYK", {}),
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {"transparency": 3}),
    ("PNG", "1", {}),
    ("PNG", "I;16", {}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {}),
    ("WEBP", "RGB", {"lossless": True}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("WEBP", "RGB", {"save_all": True}),  # an animation
)
FORMATS = ("JPEG", "PNG", "WEBP")


@dataclasses.dataclass(frozen=True, slots=True)
class Mutation:
    """A damaged body, the format that it was of, and what was done to it."""

    image_format: str
    way: str
    body: bytes


@functools.cache
def originals() -> dict[str, tuple[bytes, ...]]:
    """Return whole images of each format, of 72 x 56 pixels, with EXIF; one of each kind that decoders tell apart."""
    pictures = [Image.fromarray(photograph(72, 56, np.random.default_rng(seed))) for seed in range(2)]
    exif = Image.Exif()
    exif[0x0112] = 6
    found: dict[str, list[bytes]] = {name: [] for name in FORMATS}
    for name, mode, options in WRITTEN:
        first, second = (each.convert("L").convert(mode) if mode == "I;16" else each.convert(mode) for each in pictures)
        more = {"append_images": [second]} if "save_all" in options else {}
        file = io.BytesIO()
        first.save(file, name, exif=exif, **options, **more)
        found[name].append(file.getvalue())
    return {name: tuple(bodies) for name, bodies in found.items()}


def mutation(seed: int, number: int) -> Mutation:
    """Return body `number` of a seed: of the formats, and for each of the ways, by turns."""
    rng = np.random.default_rng([seed, number])
    name = FORMATS[number % len(FORMATS)]
    ways = list(WAYS)
    way = ways[number // len(FORMATS) % len(ways)]
    bodies = originals()[name]
    body = WAYS[way](bodies[rng.integers(len(bodies))], rng)
    if rng.random() < 0.2:  # some twice
        body = flip(body, rng)
    return Mutation(name, way, body)


def flip(body: bytes, rng: np.random.Generator) -> bytes:
    """Turn over up to twelve bits."""
    changed = bytearray(body)
    for place in rng.integers(0, len(body), rng.integers(1, 13)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite(body: bytes, rng: np.random.Generator) -> bytes:
    """Write noise, or one byte again and again, over up to 64 bytes."""
    length = int(rng.integers(1, 65))
    place = int(rng.integers(len(body)))
    noise = rng.bytes(length) if rng.random() < 0.5 else bytes([rng.choice(EXTREMES)]) * length
    return body[:place] + noise[: len(body) - place] + body[place + length :]


def truncate(body: bytes, rng: np.random.Generator) -> bytes:
    """Leave out the end."""
    return body[: int(rng.integers(1, len(body)))]


def insert(body: bytes, rng: np.random.Generator) -> bytes:
    """Put noise between two bytes."""
    place = int(rng.integers(len(body)))
    return body[:place] + rng.bytes(int(rng.integers(1, 65))) + body[place:]


def remove(body: bytes, rng: np.random.Generator) -> bytes:
    """Leave out up to 64 bytes."""
    place = int(rng.integers(len(body)))
    return body[:place] + body[place + int(rng.integers(1, 65)) :]


def repeat(body: bytes, rng: np.random.Generator) -> bytes:
    """Write up to 256 bytes up to fifty times."""
    place = int(rng.integers(len(body)))
    piece = body[place : place + int(rng.integers(1, 257))]
    return body[:place] + piece * int(rng.integers(2, 51)) + body[place:]


def splice(body: bytes, rng: np.random.Generator) -> bytes:
    """Go on with another image, of any format, from somewhere in its middle."""
    others = originals()[FORMATS[rng.integers(len(FORMATS))]]
    other = others[rng.integers(len(others))]
    return body[: int(rng.integers(1, len(body)))] + other[int(rng.integers(len(other))) :]


def header(body: bytes, rng: np.random.Generator) -> bytes:
    """Write extremes into one to three bytes of one field of a header, with the checksum that belongs to it."""
    changed = bytearray(body)
    fields = _fields(body)
    place, length = fields[rng.integers(len(fields))]
    for _ in range(int(rng.integers(1, 4))):
        changed[place + int(rng.integers(length))] = rng.choice(EXTREMES)
    return _checked(changed) if body.startswith(b"\x89PNG") else bytes(changed)


WAYS: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    each.__name__: each for each in (flip, overwrite, truncate, insert, remove, repeat, splice, header)
}


def _fields(body: bytes) -> list[tuple[int, int]]:
    """Return (place, length) of what a decoder's path hangs on: lengths, kinds, sizes, tables."""
    if body.startswith(b"\xff\xd8"):
        return _jpeg_fields(body)
    return _png_fields(body) if body.startswith(b"\x89PNG") else _webp_fields(body)


def _jpeg_fields(body: bytes) -> list[tuple[int, int]]:
    fields, place = [], 2
    while place + 4 <= len(body) and body[place] == 0xFF:
        length = int.from_bytes(body[place + 2 : place + 4])
        fields += [(place + 1, 1), (place + 2, 2), (place + 4, min(length - 2, 24))]
        if body[place + 1] == 0xDA:  # what follows is no marker
            break
        place += 2 + length
    return fields


def _png_chunks(body: bytes | bytearray) -> list[tuple[int, int]]:
    """Return (place, length of its content) of each chunk of a whole PNG."""
    chunks, place = [], 8
    while place + 12 <= len(body):
        (length,) = struct.unpack_from(">I", body, place)
        chunks.append((place, length))
        place += 12 + length
    return chunks


def _png_fields(body: bytes) -> list[tuple[int, int]]:
    fields = []
    for place, length in _png_chunks(body):
        fields += [(place, 4), (place + 4, 4)]
        if length:
            fields += [(place + 8, min(length, 16))]
    return fields


def _checked(body: bytearray) -> bytes:
    """Return a PNG with right checksums, as far as its chunks can be followed: else each change would end there."""
    for place, length in _png_chunks(body):
        end = place + 8 + length
        if end + 4 <= len(body):
            struct.pack_into(">I", body, end, zlib.crc32(body[place + 4 : end]))
    return bytes(body)


def _webp_fields(body: bytes) -> list[tuple[int, int]]:
    fields, place = [(4, 4), (8, 4)], 12
    while place + 8 <= len(body):
        (length,) = struct.unpack_from("<I", body, place + 4)
        fields += [(place, 4), (place + 4, 4)]
        if length:
            fields += [(place + 8, min(length, 32))]
        place += 8 + length + length % 2
    return fields
