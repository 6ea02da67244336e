"""What would cost Pillow seconds or minutes of Python is refused, or read in another way."""

import contextlib
import io
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.errors import BadImage, UnsupportedFormat
from handlers.images import pillow
from handlers.images.decoding import decode
from handlers.images.kinds import START_BYTES
from handlers.images.limits import MOST_READS, BoundedReads

SIZE = 10_000_000  # bytes; the limit is twice that
# A million turns of an empty loop are the unit: what is not bounded takes hundreds of them, or thousands.
TURNS, MOST = 1_000_000, 40


def encoded(name: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, name, **options)
    return file.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 255, marker, len(data) + 2) + data


def jpeg(between: bytes, **options: Any) -> bytes:
    """Return a JPEG with something before its tables."""
    whole = encoded("JPEG", **options)
    place = whole.index(b"\xff\xdb")
    return whole[:place] + between + whole[place:]


def cmyk(between: bytes) -> bytes:
    """Return a JPEG that Pillow reads, with something at its beginning."""
    file = io.BytesIO()
    Image.new("CMYK", (64, 48)).save(file, "JPEG")
    return file.getvalue()[:2] + between + file.getvalue()[2:]


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(between: bytes) -> bytes:
    whole = encoded("PNG")
    return whole[:33] + between + whole[33:]


def tiff(strips: int) -> bytes:
    """Return a TIFF of two lines that says that it has so many strips."""
    tags = {256: 64, 257: 2, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1, 279: 64}
    entries = {tag: struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items()}
    entries[273] = struct.pack("<HHII", 273, 3, strips, 200)
    text = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries))
    return text.ljust(200, b"\0") + b"\xc8\0" * strips


def bmp_of_runs(width: int, height: int) -> bytes:
    """Return a BMP of one pixel and an end in each line."""
    lines = b"\x01\x07\0\0" * height + b"\0\1"
    head = b"BM" + struct.pack("<IHHI", 1078 + len(lines), 0, 0, 1078)
    head += struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(lines), 0, 0, 256, 0)
    return head + bytes(1024) + lines


EXIF = segment(0xE1, b"Exif\0\0" + bytes(628))
RECORDS = segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\0" * 5000)
PROFILE = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1_000_000)))
HOSTILE: dict[str, Callable[[], bytes]] = {
    "JPEG of comments": lambda: jpeg(b"\xff\xfe\0\2" * (SIZE // 4)),
    "JPEG of comments, turned": lambda: jpeg(b"\xff\xfe\0\2" * (SIZE // 4), exif=turned()),
    "JPEG of filling, turned": lambda: jpeg(b"\xff" * SIZE, exif=turned()),
    "JPEG of stray bytes": lambda: jpeg(b"\xff\xfe\0\2" + bytes(SIZE)),
    "JPEG of metadata": lambda: jpeg(EXIF * (SIZE // len(EXIF))),
    "JPEG of metadata, CMYK": lambda: cmyk(EXIF * (SIZE // len(EXIF))),
    "JPEG of records, CMYK": lambda: cmyk(RECORDS * (SIZE // len(RECORDS))),
    "PNG of chunks": lambda: png(chunk(b"noNe") * (SIZE // 12)),
    "PNG of profiles": lambda: png(PROFILE * (SIZE // len(PROFILE))),
    "PPM of comments": lambda: b"P3 2000 1000 255\n" + b"#\n" * (SIZE // 2),
    "PPM of other numbers": lambda: b"P6 2000 1500 511\n" + bytes(2000 * 1500 * 6),
    "TIFF of strips": lambda: tiff(SIZE // 2),
    "BMP of runs": lambda: bmp_of_runs(8192, 6144),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_was_made_to_be_slow_is_not(kind: str) -> None:
    data = HOSTILE[kind]()
    units, seconds = zip(*(_timed(data) for _ in range(3)), strict=True)
    assert min(seconds) < MOST * min(units)


def _timed(data: bytes) -> tuple[float, float]:
    """Return the processor time of an empty loop, and that of decoding."""
    began = time.process_time()
    for _ in range(TURNS):
        pass
    unit, began = time.process_time() - began, time.process_time()
    with contextlib.suppress(BadImage, UnsupportedFormat):
        assert decode(data, smallest=16).shape[0] == 3
    return unit, time.process_time() - began


def test_what_is_like_them_and_small_is_read() -> None:
    expected = decode(encoded("PNG"))
    assert decode(png(chunk(b"noNe") * 10_000 + PROFILE)).equal(expected)
    assert decode(jpeg(EXIF + RECORDS + b"\xff" * 100 + b"\xff\xfe\0\2" * 1000)).shape == expected.shape
    assert decode(tiff(100)).shape == (3, 2, 64) and decode(bmp_of_runs(640, 480)).shape == (3, 480, 640)
    assert decode(b"P3 # a comment\n2 1 255 1 2 3 4 5 6").flatten().tolist() == [1, 4, 2, 5, 3, 6]
    assert decode(b"P6 2 1 511\n" + bytes([1, 255, 0, 0, 0, 0] * 2)).shape == (3, 1, 2)


@pytest.mark.parametrize("kind", ["PPM of comments", "PPM of other numbers", "BMP of runs"])
def test_what_is_not_served_says_what_to_send(kind: str) -> None:
    with pytest.raises(UnsupportedFormat, match=r"images of this kind .* are not served: send it as a PNG"):
        decode(HOSTILE[kind]())


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "PCX"])
def test_an_image_is_known_by_its_first_bytes(name: str) -> None:
    assert pillow.begins_as_image(encoded(name)[:START_BYTES])


@pytest.mark.parametrize("start", [b"\0\0\0\x18ftypmp42", b"\xff\xd8\xff", b"<svg xmlns=", b"8BPS\0\1"])
def test_a_film_or_a_drawing_is_known_too(start: bytes) -> None:
    assert pillow.begins_as_image(start.ljust(START_BYTES, b"\0"))


@pytest.mark.parametrize(
    "start", [b"", b"\xff\xd8", b"epoch,loss\n", b'{"a": 1}', b"%PDF-1.7", b"PK\3\4", b"\x1f\x8b\x08", b"xftyp"]
)
def test_what_is_no_image_is_not_taken_for_one(start: bytes) -> None:
    assert not pillow.begins_as_image(start)


def test_reads_are_counted() -> None:
    file = BoundedReads(bytes(10))
    assert [file.read(4), file.read(), file.read(1)] == [bytes(4), bytes(6), b""]
    for _ in range(MOST_READS - 4):
        file.read(1)
    with pytest.raises(BadImage, match="more than 131,072 pieces"):
        file.read(1)
