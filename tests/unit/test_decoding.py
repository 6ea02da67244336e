"""Each kind of image decodes to what a person sees, and each broken one to a RequestError."""

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from handlers.errors import BadImage, RequestError, TooLarge, UnsupportedFormat
from handlers.images import avif, jpeg
from handlers.images.colours import value_range
from handlers.images.decoding import decode
from handlers.images.jpeg import frame_of
from handlers.images.limits import Limits
from handlers.images.orientation import upright
from handlers.images.pillow import FORMATS, open_image
from handlers.preprocessing import Preprocess
from handlers.spec import PreprocessSpec
from synthetic.photograph import photograph

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def corners(width: int = 48, height: int = 32) -> Image.Image:
    """Return a picture with red, green, blue and white quarters, read left to right, top to bottom."""
    image = Image.new("RGB", (width, height), WHITE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    return image


def pixel(image: torch.Tensor, across: float, down: float) -> tuple[int, ...]:
    """Return the channels at a place given in fractions of width and height."""
    return tuple(image[:, int(down * image.shape[1]), int(across * image.shape[2])].tolist())


def near(actual: tuple[int, ...], expected: tuple[int, ...], tolerance: int = 4) -> bool:
    return len(actual) == len(expected) and all(abs(a - b) <= tolerance for a, b in zip(actual, expected, strict=True))


def is_corners(image: torch.Tensor, tolerance: int = 4) -> bool:
    places = (((0.25, 0.25), RED), ((0.75, 0.25), GREEN), ((0.25, 0.75), BLUE), ((0.75, 0.75), WHITE))
    return all(near(pixel(image, *place), colour, tolerance) for place, colour in places)


PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"quality": 95}),
    "jpeg-progressive": ("JPEG", {"quality": 95, "progressive": True}),
    "jpeg-444": ("JPEG", {"quality": 95, "subsampling": 0}),
    "png": ("PNG", {}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "tiff-deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "tiff-jpeg": ("TIFF", {"compression": "jpeg", "quality": 95}),
    "webp": ("WEBP", {"quality": 95}),
    "webp-lossless": ("WEBP", {"lossless": True}),
    "ppm": ("PPM", {}),
    "avif": ("AVIF", {"quality": 95}),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_every_served_format_is_read(kind: str) -> None:
    name, options = PLAIN[kind]
    image = decode(encoded(corners(), name, **options))
    assert image.dtype == torch.uint8
    assert image.shape == (3, 32, 48)
    assert is_corners(image, tolerance=20)


def test_every_served_format_has_a_test() -> None:
    assert {name for name, _ in PLAIN.values()} == set(FORMATS)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_truncated_image_of_every_format_is_refused(kind: str) -> None:
    name, options = PLAIN[kind]
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = encoded(noise, name, **options)
    for kept in (0.9, 0.5, 0.1):
        with pytest.raises(BadImage):
            decode(whole[: int(len(whole) * kept)])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_last_bytes_is_refused_by_both_decoders(mode: str) -> None:
    whole = encoded(corners().convert(mode), "JPEG")
    for lost in (1, 2, 10):
        with pytest.raises(BadImage, match="truncated or corrupt"):
            decode(whole[:-lost])


def test_a_jpeg_with_stray_bytes_before_a_marker_is_read() -> None:
    whole = encoded(corners(), "JPEG", quality=95)
    assert whole[20:22] == b"\xff\xdb", "the marker after JFIF's 18 bytes"
    assert is_corners(decode(whole[:20] + b"\0\0\0" + whole[20:]))


def test_a_jpeg_truncated_after_stray_bytes_is_refused() -> None:
    whole = encoded(corners(), "JPEG", quality=95)
    with pytest.raises(BadImage):
        decode((whole[:20] + b"\0\0\0" + whole[20:])[:-40])


def test_a_jpeg_with_damaged_data_is_refused() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = bytearray(encoded(noise, "JPEG"))
    middle = len(whole) * 2 // 3
    whole[middle : middle + 200] = b"\xd0\xff" * 100
    with pytest.raises(BadImage):
        decode(bytes(whole))


STRAY = b"\0" * 9  # before a marker: harmless, and the first remark that libjpeg-turbo has
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a hole": lambda data: data[: len(data) // 2] + data[len(data) // 2 + 700 :],
    "zeros": lambda data: data[: len(data) // 2] + bytes(1500) + data[len(data) // 2 + 1500 :],
    "sent as text": lambda data: data.replace(b"\n", b"\r\n"),
    "no end": lambda data: data[:-2],
    "a tail of zeros": lambda data: data[:-302] + bytes(300) + data[-2:],
}
HARMLESS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: data,
    "stray bytes": lambda data: data.replace(b"\xff\xdb", STRAY + b"\xff\xdb", 1),
    "an odd version of JFIF": lambda data: data.replace(b"JFIF\0\1", b"JFIF\0\7", 1),
    "a broken profile": lambda data: data[:2] + b"\xff\xe2\0\x12ICC_PROFILE\0\7\3ab" + data[2:],
    "a restart marker in the header": lambda data: data[:2] + b"\xff\xd0" + data[2:],
    "filling before the end": lambda data: data[:-2] + bytes(4) + data[-2:],
    "bytes after the end": lambda data: data + data[100:],
}


@pytest.mark.parametrize("harmless", HARMLESS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_damage_is_seen_behind_harmless_faults(mode: str, harmless: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise).convert(mode), "JPEG", quality=90)
    faulty = HARMLESS[harmless](whole)
    assert decode(faulty).equal(decode(whole))
    for damage in DAMAGE.values():
        with pytest.raises(BadImage, match="truncated or corrupt"):
            decode(HARMLESS[harmless](damage(whole)))


def test_a_plain_jpeg_has_what_its_pixels_need() -> None:
    whole = encoded(corners(), "JPEG", quality=95)
    jfif, rest = whole[2:20], whole[20:]
    odd = jfif.replace(b"JFIF\0\1", b"JFIF\0\7")
    comment, exif, profile = b"\xff\xfe\0\4hi", b"\xff\xe1\0\4Ex", b"\xff\xef\0\4zz"
    unknown = b"\xff\xf0\0\4hi"  # is for the decoder to judge
    faulty = (
        b"\xff\xd8"
        + odd
        + b"\xff\xe0\0\x08JFXX\0\x10"
        + comment
        + exif
        + b"\xff\xd0"
        + profile
        + unknown
        + rest
        + b"after"
    )
    assert jpeg.plain(faulty) == b"\xff\xd8" + jfif + unknown + rest
    assert jpeg.plain(whole, b"more") == whole[:-2] + b"more" + whole[-2:]


@pytest.mark.parametrize(
    ("mode", "transform", "expected"),
    [("RGB", 0, 0), ("RGB", 1, 1), ("RGB", 2, 1), ("CMYK", 0, 0), ("CMYK", 1, 2), ("CMYK", 2, 2)],
)
def test_a_plain_jpeg_of_adobe_has_a_transform_that_fits_its_components(
    mode: str, transform: int, expected: int
) -> None:
    whole = encoded(corners().convert(mode), "JPEG", quality=95)
    adobe = b"\xff\xee\0\x0eAdobe\0d\0\0\0\0"
    tables = whole[whole.index(b"\xff\xdb") :]
    marked = b"\xff\xd8" + adobe + bytes([transform]) + tables
    frame = tables.index(b"\xff\xc0")
    plain = b"\xff\xd8" + tables[:frame] + adobe + bytes([expected]) + tables[frame:]
    assert jpeg.plain(marked) == plain
    longer = marked.replace(b"\0\x0eAdobe", b"\0\x10Adobe").replace(tables, b"xx" + tables)
    assert jpeg.plain(longer) == plain, "what follows the transform goes"


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_filling_is_no_damage_and_a_short_tail_of_zeros_is(options: dict[str, Any]) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
    whole = encoded(noise, "JPEG", quality=90, **options)
    pixels, end = whole[:-2], whole[-2:]
    for filling in (bytes(4), bytes(34), bytes(5000), b"\xaa" * 34):
        assert decode(pixels + filling + end).equal(decode(whole))
    for zeros in (20, 40):
        with pytest.raises(BadImage, match="truncated or corrupt"):
            decode(pixels[:-zeros] + bytes(zeros) + end)


def test_filling_takes_no_zero_from_the_last_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1000, 16, 16), dtype=np.uint8)
    whole = next(
        data for data in (encoded(Image.fromarray(each), "JPEG") for each in images) if data[-4:-2] == b"\xff\0"
    )
    assert decode(whole[:-2] + bytes(34) + whole[-2:]).equal(decode(whole))


def odd_sampling_jpeg(lines: int, missing: int = 0) -> bytes:
    """Return a JPEG whose colours have 2 x 1, 2 x 1 and 1 x 1 samples in 16 x 8 pixels, without its last bytes."""

    def segment(marker: int, content: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content

    tables = segment(0xDB, b"\0" + b"\x10" * 64)
    tables += segment(0xC4, bytes([0x00, 1, 1, *[0] * 14, 0, 6]) + bytes([0x10, 1, *[0] * 15, 0]))
    frame = segment(0xC0, struct.pack(">BHHB", 8, 8 * lines, 16, 3) + bytes([1, 0x21, 0, 2, 0x21, 0, 3, 0x11, 0]))
    scan = segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 0, 63, 0]))
    # Of each 16 x 8 pixels: a difference of 6 bits of the first block's level, none of the other four's.
    bits = "".join("10" + ("100000", "011111")[line % 2] + "0" + "00" * 4 for line in range(lines))
    pixels = int(bits.ljust(-len(bits) % 8 + len(bits), "1"), 2).to_bytes(-(-len(bits) // 8))
    return b"\xff\xd8" + tables + frame + scan + pixels[: len(pixels) - missing] + b"\xff\xd9"


def test_a_jpeg_of_odd_sampling_is_read_where_it_is_whole() -> None:
    levels = decode(odd_sampling_jpeg(40), colour="grey")[0, ::8, 0].tolist()
    assert levels == [192, 128] * 20
    for missing in (1, 10, 60):
        with pytest.raises(BadImage, match="truncated or corrupt"):
            decode(odd_sampling_jpeg(40, missing))


def test_a_jpeg_without_the_scan_of_a_colour_is_refused() -> None:
    whole = encoded(corners(), "JPEG", progressive=True)
    scan = whole.index(b"\xff\xda")
    assert whole[scan + 4] == 3, "of all colours"
    following = whole.index(b"\xff\xc4", scan)
    with pytest.raises(BadImage, match="truncated or corrupt"):
        decode(whole[:scan] + whole[following:])
    grey = encoded(corners().convert("L"), "JPEG")
    frame = b"\xff\xc0\0\x0b\x08\0\x20\0\x30\1\1\x11\0"
    assert frame in grey
    coloured = frame.replace(b"\x0b", b"\x11").replace(b"\x30\1\1", b"\x30\3\1") + b"\2\x11\0\3\x11\0"
    with pytest.raises(BadImage, match="a scan is missing"):
        decode(grey.replace(frame, coloured))


def test_a_film_after_a_photograph_is_not_looked_at() -> None:
    film = struct.pack(">I", 24) + b"ftypmp42" + bytes(12) + b"\xff\xda" * 5000
    for options in ({}, {"progressive": True}):
        photo = encoded(corners(), "JPEG", quality=95, **options)
        assert decode(photo + film).equal(decode(photo))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda data: data.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "JPEG images of 12 bits"),
        (lambda data: data.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x10"), "JPEG images of 16 bits"),
        (lambda data: data.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x02"), "JPEG images of 2 bits"),
        (lambda data: data.replace(b"\xff\xc0", b"\xff\xc9"), "JPEG images with arithmetic coding"),
        (lambda data: data.replace(b"\xff\xc0", b"\xff\xc5"), r"JPEG images .*hierarchical"),
        (lambda data: data.replace(b"\xff\xc0", b"\xff\xf7"), "JPEG-LS images"),
        (lambda data: data.replace(b"\xff\xc0\0\x11\x08\0\x20", b"\xff\xc0\0\x11\x08\0\0"), r"JPEG images .*DNL"),
        (lambda data: data.replace(b"\0\x20\0\x30\3", b"\0\x20\0\x30\2"), "JPEG images of 2 components"),
    ],
)
@pytest.mark.parametrize("harmless", ["nothing", "stray bytes"])
def test_a_rare_kind_of_jpeg_is_named(change: Callable[[bytes], bytes], kind: str, harmless: str) -> None:
    data = encoded(corners(), "JPEG")
    assert change(data) != data
    with pytest.raises(UnsupportedFormat, match=f"{kind}.* are not served; send a baseline"):
        decode(HARMLESS[harmless](change(data)))


@pytest.mark.parametrize(("old", "new"), [(b"\x11\x08", b"\x11\x01"), (b"\x11\x08", b"\x11\x11"), (b"\0\x30", b"\0\0")])
def test_a_jpeg_of_no_frame_is_refused(old: bytes, new: bytes) -> None:
    frame = b"\xff\xc0\0\x11\x08\0\x20\0\x30"
    data = encoded(corners(), "JPEG").replace(frame, frame.replace(old, new))
    with pytest.raises(BadImage, match=r"^the JPEG image is truncated or corrupt: its frame cannot be$"):
        decode(data)


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    whole = encoded(corners(), "JPEG", progressive=True)
    first, second = [i for i in range(len(whole) - 1) if whole[i : i + 2] == b"\xff\xda"][:2]
    with pytest.raises(BadImage, match="more than 100 scans"):
        decode(whole[:second] + whole[first:second] * 100 + whole[second:])
    most = jpeg.MAX_SCANS - jpeg.scans(whole)
    with pytest.raises(BadImage, match="truncated or corrupt"):  # it is read, and libjpeg sees the repetition
        decode(whole[:second] + whole[first:second] * most + whole[second:])
    with pytest.raises(BadImage, match="more than 100 scans"):
        decode(whole[:second] + whole[first:second] * (most + 1) + whole[second:])


def test_the_parts_of_a_jpeg_are_its_markers_and_pixels() -> None:
    head, filled = b"\xff\xd8\xff\xfe\0\4hi", b"stray\xff\0\xff\xff\xff\xd0\xff\xdb\0\3q"
    scan, end = b"\xff\xda\0\3s" + b"pix\xff\0\xff\xd3els", b"\xff\xd9after\xff\xfe"
    data = head + filled + scan + end
    start, pixels = len(head + filled), len(head + filled) + 5
    last = len(head + filled + scan)
    assert list(jpeg.parts(data)) == [
        (0xFE, 4, 8), (0xD0, 19, 19), (0xDB, 21, 24), (0xDA, start + 2, pixels), (jpeg.PIXELS, pixels, last),
        (0xD9, last + 2, last + 2),
    ]  # fmt: skip
    assert next(iter(jpeg.parts(data, 19))) == (0xDB, 21, 24)
    assert list(jpeg.parts(data[: last - 2]))[-1] == (jpeg.PIXELS, pixels, last - 2)
    assert list(jpeg.parts(b"\xff\xd8\xff\xfe\0\1")) == [(0xFE, 4, 6)], "a length counts itself"
    comments = b"\xff\xd8" + b"\xff\xfe\0\2" * (jpeg.MAX_SEGMENTS - 1)
    assert len(list(jpeg.parts(comments + b"\xff\xd9"))) == jpeg.MAX_SEGMENTS
    with pytest.raises(BadImage, match=r"^the JPEG image is in more than 4,096 pieces$"):
        list(jpeg.parts(comments + b"\xff\xfe\0\2"))


def test_a_frame_is_what_a_header_says() -> None:
    start, adobe, comment = b"\xff\xd8", b"\xff\xee\0\x0eAdobe\0d\0\0\0\0\2", b"\xff\xff\xff\xfe\0\3x"
    frame = b"\xff\xc2\0\x0e\x08\1\2\3\4\2a\x11\0b\x11\0"
    assert frame_of(start + frame) == jpeg.Frame(b"\xc2", 0x304, 0x102, b"ab", None, 8, 18)
    assert frame_of(start + adobe + comment + frame) == jpeg.Frame(b"\xc2", 0x304, 0x102, b"ab", 2, 8, 41)
    short = b"\xff\xee\0\x0dAdobe\0d\0\0\0\0"
    assert frame_of(start + short + frame) == jpeg.Frame(b"\xc2", 0x304, 0x102, b"ab", None, 8, 33)
    assert frame_of(start + b"\xff\xc0\0\x08\x08\0\1\0\2\0") == jpeg.Frame(b"\xc0", 2, 1, b"", None, 8, 12)
    for malformed in (
        b"", b"\xff\xc0\0\x07\x08\0\1\0\2", b"x" + frame, b"\xff\xfe\0\1" + frame, b"\xff\x01\0\3x" + frame,
        b"\xff\xd0\0\3x" + frame, b"\xff\xda\0\3x" + frame, b"\xff\xfe\0\2" * jpeg.MAX_SEGMENTS + frame,
    ):  # fmt: skip
        assert frame_of(start + malformed) is None
    assert frame_of(start + b"\xff\xfe\0\2" * (jpeg.MAX_SEGMENTS - 1) + frame) is not None


@pytest.mark.parametrize(
    ("side", "smallest", "factor"),
    [(800, 80, 8), (793, 80, 8), (792, 80, 4), (397, 80, 4), (396, 80, 2), (199, 80, 2), (198, 80, 1), (9000, None, 1)],
)
def test_a_jpeg_is_decoded_no_smaller_than_antialiasing_needs(side: int, smallest: int | None, factor: int) -> None:
    assert jpeg._scale(side, smallest) == factor, "a quarter more than the side that is wanted"


def metadata(*segments: bytes) -> bytes:
    """Return a JPEG that lies on its side, with APP1 segments in front."""
    stored = encoded(corners().transpose(Image.Transpose.ROTATE_270), "JPEG", quality=95)
    return (
        stored[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(each) + 2) + each for each in segments) + stored[2:]
    )


def test_an_orientation_in_several_segments_counts() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    exif[0x010E] = "x" * 40
    whole = exif.tobytes()  # begins with the name of its segment
    assert whole.startswith(jpeg.EXIF) and is_corners(decode(metadata(whole)), tolerance=20)
    for place in (12, 20, len(whole) - 30):
        assert jpeg.orientation_of(metadata(whole[:place], jpeg.EXIF + whole[place:])) == 8
    assert jpeg.orientation_of(metadata(jpeg.EXIF + whole[6:], b"other", b"Exif\0x")) == 8
    late = metadata(*[b"other" * 12_000] * 2, whole)
    assert jpeg.orientation_of(late) == 8 and jpeg.orientation_of(bytearray(late)) == 8
    assert jpeg.orientation_of(metadata(*[b"other" * 12_000] * 3, whole)) == 1, "behind the first 128 KB"


def test_an_orientation_of_xmp_counts() -> None:
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    assert jpeg.orientation_of(metadata(jpeg.XMP + packet)) == 8
    assert is_corners(decode(metadata(jpeg.XMP + packet)), tolerance=20)
    assert jpeg.orientation_of(metadata(packet)) == 1, "a segment of another name"


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_picture_stands_upright_whatever_its_exif_orientation(name: str, orientation: int) -> None:
    turned = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what undoes each: the numbers are of Image.Transpose
    stored = corners()
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(turned[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(stored, name, exif=exif.tobytes(), **({"quality": 95} if name != "PNG" else {})))
    assert image.shape == (3, 32, 48)
    assert is_corners(image, tolerance=20)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF"])
def test_an_orientation_that_is_stored_as_a_byte_counts(name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    stored = encoded(corners().transpose(Image.Transpose.ROTATE_270), name, exif=exif.tobytes())
    order = "<" if struct.pack("<HHIH", 0x0112, 3, 1, 8) in stored else ">"
    short, byte = struct.pack(f"{order}HHIH", 0x0112, 3, 1, 8), struct.pack(f"{order}HHIBB", 0x0112, 1, 1, 8, 0)
    assert short in stored
    changed = stored.replace(short, byte)
    if name == "PNG":
        start = changed.index(b"eXIf")
        length = int.from_bytes(changed[start - 4 : start])
        data = changed[start + 4 : start + 4 + length]
        changed = changed[: start - 4] + png_chunk(b"eXIf", data) + changed[start + 8 + length :]
    assert is_corners(decode(changed), tolerance=20)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_pillows_transpose(orientation: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    methods = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
    image = Image.fromarray(pixels)
    if orientation > 1:
        image = image.transpose(Image.Transpose(methods[orientation]))
    assert np.array_equal(upright(pixels, orientation), np.asarray(image))


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_a_picture_one_pixel_wide_stands_upright(name: str, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(encoded(Image.new("RGB", size, RED), name, exif=exif.tobytes()))
    assert tuple(pixels.shape[1:]) == (size if orientation > 4 else size[::-1])
    assert near(pixel(pixels, 0, 0), RED, 20)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_broken_metadata_costs_no_picture(exif: bytes) -> None:
    assert is_corners(decode(encoded(corners(), "JPEG", quality=95, exif=exif)))


def transparent(mode: str) -> Image.Image:
    """Return the four quarters with the right half transparent, its colour black underneath."""
    alpha = Image.new("L", (48, 32), 255)
    alpha.paste(0, (24, 0, 48, 32))
    image = corners()
    image.paste((0, 0, 0), (24, 0, 48, 32))
    image.putalpha(alpha)
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "name"), [("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("P", "PNG"), ("RGBA", "GIF")]
)
def test_transparency_lies_on_white(mode: str, name: str) -> None:
    options = {"lossless": True} if name == "WEBP" else {}
    image = decode(encoded(transparent(mode), name, **options))
    assert near(pixel(image, 0.25, 0.25), RED)
    assert near(pixel(image, 0.75, 0.25), WHITE)
    assert near(pixel(image, 0.75, 0.75), WHITE)


def test_half_transparency_is_half_white() -> None:
    image = decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"))
    assert near(pixel(image, 0, 0), (127, 127, 127), 1)
    image = decode(encoded(Image.new("LA", (4, 4), (0, 128)), "PNG"), colour="grey")
    assert near(pixel(image, 0, 0), (127,), 1)


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 7, 7)), ("1", 0), ("I;16", 1799)])
def test_a_transparent_colour_lies_on_white(mode: str, key: int | tuple[int, int, int]) -> None:
    levels = np.array([[7, 200]], np.uint8)
    deep = mode == "I;16"
    image = Image.fromarray(levels.astype(np.uint16) * 257) if deep else Image.fromarray(levels).convert(mode)
    left, right = decode(encoded(image, "PNG", transparency=key), colour="grey").flatten().tolist()
    assert left == 255
    assert right == (255 if mode == "1" else 200)


@pytest.mark.parametrize("bits", [2, 4])
def test_a_transparent_grey_of_few_bits_lies_on_white(bits: int) -> None:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8 // bits, 1, bits, 0, 0, 0, 0))
    key = png_chunk(b"tRNS", struct.pack(">H", 1))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes([0, 0b00_01_10_11 if bits == 2 else 0x12])))
    image = decode(b"\x89PNG\r\n\x1a\n" + header + key + pixels + png_chunk(b"IEND", b""), colour="grey")
    assert image.flatten().tolist() == ([0, 255, 170, 255] if bits == 2 else [255, 34])


def test_more_alphas_than_colours_are_left_out_of_account() -> None:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0))
    colours, pixels = png_chunk(b"PLTE", bytes([9, 9, 9, 8, 8, 8])), png_chunk(b"IDAT", zlib.compress(bytes([0, 0, 1])))
    for alphas, levels in ((2, [255, 255]), (3, [9, 8])):
        key = png_chunk(b"tRNS", bytes(alphas))
        data = b"\x89PNG\r\n\x1a\n" + header + colours + key + pixels + png_chunk(b"IEND", b"")
        assert decode(data, colour="grey").flatten().tolist() == levels


def test_an_avif_that_is_to_be_cropped_is_named() -> None:
    whole = encoded(corners(), "AVIF")
    place = whole.index(b"ipco") + 4
    crop = struct.pack(">I4s8I", 40, b"clap", 20, 1, 20, 1, 0, 1, 0, 1)
    with pytest.raises(UnsupportedFormat, match=r"AVIF images with a crop \(clap\) are not served"):
        decode(whole[:place] + crop + whole[place:])


def test_an_avif_is_whole_where_its_last_box_ends() -> None:
    boxes = (
        struct.pack(">I4s4s", 12, b"ftyp", b"avif"),
        struct.pack(">I4s", 8, b"free"),
        struct.pack(">I4s", 9, b"mdat"),
    )
    whole = b"".join(boxes) + b"x"
    for data, expected in ((whole, True), (whole[:-1], False), (whole + b"x", False), (whole[:20], True)):
        assert avif._is_whole(memoryview(data)) is expected
    assert not avif._is_whole(memoryview(b"\0\0\0\7free" + whole)), "no box is shorter than its own header"
    assert avif._is_whole(memoryview(boxes[1] * avif.MAX_BOXES))
    assert not avif._is_whole(memoryview(boxes[1] * (avif.MAX_BOXES + 1)))


def test_an_avif_that_breaks_the_standard_is_not_called_truncated() -> None:
    whole = encoded(transparent("RGBA"), "AVIF", quality=95)
    assert whole.count(b"ispe") == 1
    with pytest.raises(
        UnsupportedFormat, match=r"AVIF images that break the standard are not served: .*BMFF parsing failed"
    ):
        decode(whole.replace(b"ispe", b"free"))
    with pytest.raises(BadImage, match="truncated or corrupt"):
        decode(whole.replace(b"ispe", b"free")[:-20])


def test_one_bit_is_black_and_white() -> None:
    image = Image.new("1", (8, 8), 0)
    image.paste(1, (4, 0, 8, 8))
    for name in ("PNG", "TIFF", "BMP"):
        decoded = decode(encoded(image, name))
        assert pixel(decoded, 0.1, 0.5) == (0, 0, 0)
        assert pixel(decoded, 0.9, 0.5) == WHITE


def grey_tiff(values: np.ndarray[Any, Any], order: str, **tags: int) -> bytes:
    """Return an uncompressed TIFF of one strip, written by hand: Pillow writes neither 12 bits nor white-is-zero."""
    data = values.astype(values.dtype.newbyteorder("<" if order == "<" else ">")).tobytes()
    height, width = values.shape
    entries = {256: width, 257: height, 258: tags.get("bits", values.dtype.itemsize * 8), 259: 1}
    entries |= {262: tags.get("photometric", 1), 273: 8, 277: 1, 278: height, 279: len(data)}
    entries[339] = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    directory = struct.pack(f"{order}H", len(entries))
    for tag, value in sorted(entries.items()):
        directory += struct.pack(f"{order}HHII", tag, 4, 1, value)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + directory + struct.pack(f"{order}I", 0)


RAMP = np.array([[0, 16384, 32768, 49152, 65535]])
LEVELS = [0, 64, 128, 191, 255]


def test_sixteen_bits_are_scaled_by_their_range() -> None:
    assert decode(encoded(Image.fromarray(RAMP.astype(np.uint16)), "PNG"))[0, 0].tolist() == LEVELS
    for order in "<>":
        assert decode(grey_tiff(RAMP.astype(np.uint16), order), colour="grey")[0, 0].tolist() == LEVELS
    pgm = b"P5 5 1 65535\n" + RAMP.astype(">u2").tobytes()
    assert decode(pgm)[1, 0].tolist() == LEVELS


def test_white_is_zero_is_turned_round() -> None:
    assert decode(grey_tiff(RAMP.astype(np.uint16), "<", photometric=0))[0, 0].tolist() == pytest.approx(
        LEVELS[::-1], abs=1
    )


def test_twelve_bits_use_their_own_range() -> None:
    packed = np.frombuffer(bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x00]), np.uint8)  # 0, 0x800, 0xfff, 0
    tiff = bytearray(grey_tiff(packed[None].copy(), "<", bits=12))
    entry = tiff.index(struct.pack("<HHII", 256, 4, 1, 6))
    tiff[entry : entry + 12] = struct.pack("<HHII", 256, 4, 1, 4)
    assert decode(bytes(tiff))[0, 0].tolist() == [0, 128, 255, 0]
    with open_image("TIFF", bytes(tiff)) as image:
        assert value_range(image) == (0, 4095)


@pytest.mark.parametrize(
    "values",
    [
        RAMP.astype(np.float32) / 65535,
        RAMP.astype(np.float32) * 10 - 3000,
        (RAMP * 20000).astype(np.uint32) // 2,
        (RAMP * 65537).astype(np.uint32),
        (RAMP - 30000).astype(np.int32),
    ],
)
def test_thirty_two_bits_and_floats_are_stretched(values: np.ndarray[Any, Any]) -> None:
    assert decode(grey_tiff(values, "<"), colour="grey")[0, 0].tolist() == pytest.approx(LEVELS, abs=1)


@pytest.mark.parametrize("values", [RAMP.astype(np.float32), (RAMP - 32768).astype(np.int16), RAMP.astype(np.int32)])
@pytest.mark.parametrize("compressed", [True, False])
def test_deep_samples_of_either_byte_order_are_read(values: np.ndarray[Any, Any], compressed: bool) -> None:
    tiff = grey_tiff(values, ">")
    if compressed:
        packed = zlib.compress(values.astype(values.dtype.newbyteorder(">")).tobytes())
        tiff = long_tiff([packed], ">", bits=values.dtype.itemsize * 8, kind=values.dtype.kind, compression=8)
    assert decode(tiff, colour="grey")[0, 0].tolist() == pytest.approx(LEVELS, abs=1)


def long_tiff(strips: list[bytes], order: str = "<", size: tuple[int, int] = (5, 1), **tags: Any) -> bytes:
    """Return a TIFF of these strips, written by hand, of which each tag is of long integers, one or many."""
    places = [8 + sum(map(len, strips[:i])) for i in range(len(strips))]
    samples = tags.get("samples", 1)
    entries = {256: [size[0]], 257: [size[1]], 258: [tags.get("bits", 8)] * samples, 259: [tags.get("compression", 1)]}
    entries |= {262: [tags.get("photometric", 1)], 273: places, 277: [samples], 278: [tags.get("rows", size[1])]}
    entries |= {279: [len(strip) for strip in strips], 284: [tags.get("planes", 1)]}
    entries |= {tag: tags[name] for tag, name in ((320, "colour_map"), (338, "extra")) if name in tags}
    if "tile" in tags:
        del entries[278]
        entries |= {322: [tags["tile"]], 323: [tags["tile"]], tags["offsets"]: entries.pop(273), 325: entries.pop(279)}
    entries[339] = [{"u": 1, "i": 2, "f": 3, "?": 9}[tags.get("kind", "u")]] * samples
    entries = {tag: values for tag, values in entries.items() if tag not in tags.get("without", ())}
    end = 8 + sum(map(len, strips))
    directory, beside = struct.pack(f"{order}H", len(entries)), b""
    for tag, values in sorted(entries.items()):
        code, letter = (3, "H") if tag in (258, 259, 262, 277, 284, 320, 338, 339) else (4, "I")
        data = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(data) > 4:
            place = end + 2 + 12 * len(entries) + 4 + len(beside)
            beside, data = beside + data, struct.pack(f"{order}I", place)
        directory += struct.pack(f"{order}HHI", tag, code, len(values)) + data.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", end)
    return head + b"".join(strips) + directory + bytes(4) + beside


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("rows", [32, 8])
def test_uncompressed_separate_planes_are_read(order: str, dtype: str, rows: int) -> None:
    deep = np.asarray(corners()).astype(f"{order}{dtype}") * (257 if dtype == "u2" else 1)
    strips = [
        deep[top : top + rows, :, plane].astype(f"{order}{dtype}").tobytes()
        for plane in range(3)
        for top in range(0, 32, rows)
    ]
    tiff = long_tiff(strips, order, (48, 32), bits=8 * int(dtype[1]), photometric=2, samples=3, planes=2, rows=rows)
    assert is_corners(decode(tiff))


@pytest.mark.parametrize(("extra", "compression"), [(2, 1), (2, 8), (0, 8)])
def test_a_fourth_plane_is_transparency_where_it_says_so(extra: int, compression: int) -> None:
    alpha = np.full((32, 48), 255, np.uint8)
    alpha[:16, :24] = 0
    planes = [plane.tobytes() for plane in (*np.moveaxis(np.asarray(corners()), 2, 0), alpha)]
    strips = planes if compression == 1 else [zlib.compress(plane) for plane in planes]
    image = decode(
        long_tiff(
            strips, size=(48, 32), photometric=2, samples=4, planes=2, rows=32, extra=[extra], compression=compression
        )
    )
    assert near(pixel(image, 0.25, 0.25), WHITE if extra else RED) and near(pixel(image, 0.75, 0.25), GREEN)


def test_what_a_tiff_does_not_say_is_as_the_standard_has_it() -> None:
    red = [bytes([255]) * 6, bytes(6), bytes(6)]
    planes = long_tiff(red, size=(3, 2), photometric=2, samples=3, planes=2, rows=2, without=(259, 339))
    assert decode(planes)[:, 0, 0].tolist() == [255, 0, 0], "uncompressed, unsigned"
    bits = long_tiff([b"\xa0"], size=(4, 1), without=(258, 259, 277, 284, 339))
    assert decode(bits, colour="grey")[0, 0].tolist() == [255, 0, 255, 0], "one sample of one bit"


@pytest.mark.parametrize("scale", [1, 257])
@pytest.mark.parametrize("compression", [1, 8])
def test_a_colour_map_of_either_range_has_its_colours(scale: int, compression: int) -> None:
    palette = [255, 0, 0, 255, *[0] * 252, 0, 255, 0, 255, *[0] * 252, 0, 0, 255, 255, *[0] * 252]
    indices = np.zeros((32, 48), np.uint8)
    indices[:16, 24:], indices[16:, :24], indices[16:, 24:] = 1, 2, 3
    strip = indices.tobytes() if compression == 1 else zlib.compress(indices.tobytes())
    tiff = long_tiff(
        [strip], size=(48, 32), photometric=3, colour_map=[scale * value for value in palette], compression=compression
    )
    assert is_corners(decode(tiff))


def test_a_tag_of_more_numbers_than_a_picture_needs_is_refused() -> None:
    tiff = long_tiff([bytes([0, 1, 2])], size=(3, 1), photometric=3, colour_map=[0] * (2**17 + 1))
    with pytest.raises(BadImage, match="tag 320 of the TIFF image has 262146 bytes, more than the limit of 262144"):
        decode(tiff)


@pytest.mark.parametrize("brightest", [256, 514])
def test_a_colour_map_of_dark_colours_is_one_of_sixteen_bits(brightest: int) -> None:
    dark = [256, 0, brightest] + [0] * 253
    tiff = long_tiff([bytes([0, 1, 2])], size=(3, 1), photometric=3, colour_map=[*dark, *dark, *dark])
    assert decode(tiff)[0, 0].tolist() == [1, 0, brightest // 256]


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        ({"kind": "i"}, r"in grey of one sample of 8 bits \(signed\)"),
        ({"kind": "f", "bits": 16}, r"in grey of one sample of 16 bits \(floating-point\)"),
        ({"kind": "f", "bits": 64}, r"in grey of one sample of 64 bits \(floating-point\)"),
        (
            {"kind": "f", "bits": 32, "samples": 3, "photometric": 2},
            "in RGB of 3 samples of 32 bits",
        ),
        ({"bits": 16, "samples": 3, "photometric": 8}, "in LAB of 3 samples of 16 bits"),
        ({"samples": 3, "photometric": 10}, "in LAB of 3 samples of 8 bits"),
        ({"bits": 32, "samples": 3, "photometric": 2, "planes": 2}, "in RGB of 3 samples .* in separate planes"),
        ({"samples": 2, "planes": 2, "extra": [2]}, "in grey of 2 samples of 8 bits .* in separate planes"),
        ({"samples": 2, "planes": 2, "extra": [0]}, "in grey of 2 samples of 8 bits .* in separate planes"),
        (
            {"samples": 4, "planes": 2, "photometric": 2, "extra": [0], "without": (259,)},
            "in RGB of 4 samples of 8 bits .* in separate planes",
        ),
        ({"kind": "i", "without": (262,)}, r"in grey of one sample of 8 bits \(signed\)"),
        ({"kind": "?", "bits": 16}, r"in grey of one sample of 16 bits \(untyped\)"),
        ({"samples": 3, "planes": 2, "photometric": 6}, "in YCbCr of 3 samples of 8 bits .* in separate planes"),
        ({"photometric": 3, "bits": 16, "colour_map": [0] * 3 * 2**16}, "in palette of one sample of 16 bits"),
        ({"photometric": 32803}, "in raw camera of one sample of 8 bits"),
        ({"samples": 40}, "in grey of 40 samples"),
        ({"compression": 50001}, "compressed by WebP"),
        ({"compression": 50013}, "compressed by PixTIFF"),
        ({"compression": 34712}, "compressed by JPEG 2000"),
        ({"compression": 777}, "compressed by method 777"),
        ({"photometric": 32803, "without": (258, 277, 339)}, r"in raw camera of one sample of 1 bits \(unsigned\)"),
        ({"compression": 7, "bits": 12}, "in grey of one sample of 12 bits"),
    ],
)
def test_a_rare_kind_of_tiff_is_named(tags: dict[str, Any], kind: str) -> None:
    with pytest.raises(UnsupportedFormat, match=f"TIFF images {kind}.* are not served; send one of 8 bits"):
        decode(long_tiff([bytes(5 * 3 * 8)], **tags))


def test_a_bigtiff_of_big_endian_numbers_is_named() -> None:
    with pytest.raises(UnsupportedFormat, match="BigTIFF images with big-endian numbers are not served"):
        decode(b"MM\0+\0\x08\0\0" + bytes(8))


@pytest.mark.parametrize("offsets", [324, 273])  # some writers give tiles the tags of strips
def test_uncompressed_tiles_beyond_the_edge_are_read(offsets: int) -> None:
    padded = np.pad(np.asarray(corners()), ((0, 32), (0, 16), (0, 0)))
    tiles = [padded[top : top + 32, left : left + 32].tobytes() for top in (0, 32) for left in (0, 32)][:2]
    tiff = long_tiff(tiles, size=(48, 32), photometric=2, samples=3, tile=32, offsets=offsets)
    assert is_corners(decode(tiff))


def test_floats_within_one_keep_their_level_and_bad_ones_are_black() -> None:
    values = np.array([[0.25, 0.5, np.nan, np.inf, -np.inf]], np.float32)
    levels = decode(grey_tiff(values, "<"), colour="grey")[0, 0].tolist()
    assert levels[:3] == [64, 128, 0]
    assert levels[3:] == [255, 0]


def test_a_flat_deep_image_is_read() -> None:
    assert decode(grey_tiff(np.full((3, 3), 7, np.int32), "<")).shape == (3, 3, 3)


def test_cmyk_is_not_inverted() -> None:
    cmyk = corners().convert("CMYK")
    assert is_corners(decode(encoded(cmyk, "JPEG", quality=95)), tolerance=20)
    assert is_corners(decode(encoded(cmyk, "TIFF")))


def test_lab_has_its_colours() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.new("RGB", (8, 8), (180, 90, 60)), to_lab)
    assert lab is not None
    assert near(pixel(decode(encoded(lab, "TIFF")), 0, 0), (180, 90, 60))


@pytest.mark.parametrize("version", [b"GIF87a", b"GIF89a"])
def test_a_first_frame_smaller_than_its_canvas_lies_on_white(version: bytes) -> None:
    gif = bytearray(encoded(Image.new("RGB", (8, 8), RED), "GIF"))
    gif[:6], gif[6:10] = version, struct.pack("<HH", 16, 12)
    frame = gif.index(b"\x2c")
    gif[frame + 1 : frame + 5] = struct.pack("<HH", 4, 2)
    image = decode(bytes(gif))
    assert image.shape == (3, 12, 16)
    red = (image == torch.tensor(RED)[:, None, None]).all(0)
    assert red[2:10, 4:12].all() and int(red.sum()) == 64
    assert image[:, ~red].eq(255).all()


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame_is_seen(name: str) -> None:
    others = [Image.new("RGB", (48, 32), (0, 0, 0))] * 2
    options = {"quality": 95} if name in ("WEBP", "AVIF") else {}
    assert is_corners(decode(encoded(corners(), name, save_all=True, append_images=others, **options)), tolerance=20)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP"])
def test_grey_is_luminance(name: str) -> None:
    image = decode(encoded(corners(), name, **({"quality": 95} if name != "GIF" else {})), colour="grey")
    assert image.shape == (1, 32, 48)
    for place, luminance in (((0.25, 0.25), 76), ((0.75, 0.25), 150), ((0.25, 0.75), 29), ((0.75, 0.75), 255)):
        assert near(pixel(image, *place), (luminance,))


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_a_grey_image_in_rgb_has_three_equal_channels(name: str) -> None:
    image = decode(encoded(corners().convert("L"), name))
    assert image.shape == (3, 32, 48)
    assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_any_buffer_will_do(kind: Any, name: str) -> None:
    assert decode(kind(encoded(corners(), name))).shape == (3, 32, 48)


def test_large_images_are_converted_strip_by_strip_without_seams() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1200, 1100, 3), dtype=np.uint8)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels), "BMP")).permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize(
    "options",
    [{}, {"lossless": True}, {"exif": b"Exif\0\0" + bytes(99), "quality": 95}],
    ids=["lossy", "lossless", "with metadata"],
)
def test_a_webp_that_ends_before_its_header_says_is_damaged(options: dict[str, Any]) -> None:
    whole = encoded(corners(), "WEBP", **options)
    said = int.from_bytes(whole[4:8], "little")
    assert len(whole) == said + 8 and is_corners(decode(whole + b"more"), tolerance=20)
    cut = [whole[:-1], whole[:-2], whole[: len(whole) // 2]]
    declared = [whole[:4] + length.to_bytes(4, "little") + whole[8:] for length in (said + 1, said + 2, 2**32 - 2, 12)]
    for damaged in (*cut, *declared):
        with pytest.raises(BadImage, match="the WEBP image is truncated or corrupt"):
            decode(damaged)


@pytest.mark.parametrize("kind", PLAIN)
def test_the_limits_hold_for_every_format(kind: str) -> None:
    name, options = PLAIN[kind]
    data = encoded(corners(), name, **options)
    assert decode(data, limits=Limits(max_pixels=48 * 32, max_bytes=len(data))).shape == (3, 32, 48)
    with pytest.raises(TooLarge, match="48 x 32 pixels, more than the limit of 1535"):
        decode(data, limits=Limits(max_pixels=48 * 32 - 1))
    with pytest.raises(TooLarge, match=f"{len(data)} bytes, more than the limit of {len(data) - 1}"):
        decode(data, limits=Limits(max_bytes=len(data) - 1))


@pytest.mark.parametrize("size", [(65_536, 1), (1, 65_536)])
def test_a_side_longer_than_any_camera_takes_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(TooLarge, match="a side longer than the limit of 65535"):
        decode(encoded(Image.new("RGB", size), "PNG"))
    assert decode(encoded(Image.new("L", (65_535, 1)), "PNG"), colour="grey").shape == (1, 1, 65_535)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


def test_what_pillow_only_remarks_on_is_read_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    whole = encoded(corners(), "PNG")
    animation_of_no_frames = png_chunk(b"acTL", struct.pack(">II", 0, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_corners(decode(whole[:33] + animation_of_no_frames + whole[33:]))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert is_corners(decode(whole[:33] + animation_of_no_frames + whole[33:]))
    assert capfd.readouterr() == ("", "")


def test_a_bomb_is_refused_by_its_header() -> None:
    jpeg = bytearray(encoded(corners(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"
    tiff = bytearray(encoded(corners(), "TIFF"))
    width = tiff.index(struct.pack("<HHII", 256, 4, 1, 48))
    tiff[width + 8 : width + 12] = struct.pack("<I", 2**30)
    bmp = bytearray(encoded(corners(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**30, 2**30)
    for bomb in (
        bytes(jpeg),
        png_bomb(2**31 - 1, 2**31 - 1),
        bytes(tiff),
        bytes(bmp),
        b"P6 99999 99999 255\n",
        b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2",
    ):
        with pytest.raises(TooLarge):
            decode(bomb)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\1\0\1\0", "ICO"),
        (b"8BPS\0\1", "PSD"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
        (b"\0\0\0\x18ftypheic", "HEIF"),
        (b"%!PS-Adobe-3.0 EPSF", "EPS"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x4f\xff\x51\0\x2f", "JPEG2000"),
        (b"\0\0\0\x18ftypmif1", "HEIF"),
        (b"\0\0\0\x18ftypmp42", "MP4"),
        (b"\0\0\0\x18ftypcrx ", "raw camera"),
        (b"\x1a\x45\xdf\xa3\x01", "WebM"),
        (b"RIFF\x00\x10\0\0AVI LIST", "AVI"),
        (b"%PDF-1.7", "PDF"),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', "SVG"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- <b> -->\n<!DOCTYPE svg>\n<svg:svg>', "SVG"),
        (b"PK\3\4\x14", "ZIP"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"#?RADIANCE\n", "Radiance HDR"),
    ],
)
def test_an_image_of_another_format_is_unsupported(start: bytes, name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=f"{name} .*are not served; send one of JPEG, PNG"):
        decode(start + b"\0" * 64)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"a",
        b"hello, world",
        b"\xff\xd8\xff",
        b"<html></html>",
        b"<html><svg></svg></html>",
        b"<" * 4096,
        b"\x89PNG\r\n\x1a\n",
        b"II*\0",
        b"BM",
        b"RIFF....WEBP",
    ],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(BadImage):
        decode(data)


def test_a_message_is_short_printable_and_of_one_line() -> None:
    hostile = b"P6\n# \r\n\x1b[31m\n" + b"9" * 5000 + b"\n"
    with pytest.raises(RequestError) as caught:
        decode(hostile)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", PLAIN)
def test_damaged_bytes_never_raise_anything_else(
    kind: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Warnings are errors in this suite, so a remark of Pillow's that gets out fails here too."""
    caplog.set_level(logging.DEBUG)
    name, options = PLAIN[kind]
    whole = encoded(corners(), name, **options)
    generator = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(damaged), generator.integers(1, 6)):
            damaged[place] = generator.integers(0, 256)
        try:
            image = decode(bytes(damaged), limits=Limits(max_pixels=10**6))
            assert image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3
        except RequestError:
            continue
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_every_odd_image_gets_an_answer_or_a_reason(real_data: Path | None, capfd: pytest.CaptureFixture[str]) -> None:
    folder = real_data / "odd_images" if real_data else None
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()] if folder else []
    images = {file.name: file.read_bytes() for file in files} or {
        kind: encoded(corners(), *(PLAIN[kind][:1])) for kind in PLAIN
    }
    images.pop("INDEX.csv", None)
    refused = {}
    for name, data in images.items():
        for colour, channels in (("rgb", 3), ("grey", 1)):
            try:
                assert decode(data, colour=colour).shape[0] == channels  # type: ignore[arg-type]
            except RequestError as error:
                refused[name] = error.code
    assert capfd.readouterr() == ("", "")
    # What Pillow reads is served, but for the formats left out and what is larger than the limit.
    assert len(refused) <= (0.25 * len(images) if files else 0)
    assert all(code == 415 for name, code in refused.items() if name.endswith((".jp2", ".j2k", ".ico", ".bin")))


def photo_jpeg(width: int, height: int, **options: Any) -> bytes:
    pixels = np.ascontiguousarray(photograph(width, height, np.random.default_rng(0)))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "smallest", "expected"),
    [
        ((640, 480), None, (480, 640)),
        ((640, 480), 224, (480, 640)),  # half of it is too close to what is wanted
        ((640, 480), 192, (240, 320)),
        ((1001, 751), 150, (188, 251)),
        ((1000, 750), 75, (94, 125)),
        ((200, 1000), 224, (1000, 200)),
    ],
)
def test_a_large_jpeg_is_decoded_near_the_size_that_is_wanted(
    size: tuple[int, int], smallest: int | None, expected: tuple[int, int]
) -> None:
    assert tuple(decode(photo_jpeg(*size), smallest=smallest).shape[1:]) == expected


@pytest.mark.parametrize("side", [64, 96, 150])
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_decoding_near_the_wanted_size_changes_little(side: int, resize: Any) -> None:
    preprocess = Preprocess(PreprocessSpec(image_size=side, resize=resize, crop_fraction=0.875))
    data = photo_jpeg(1200, 900)
    part = decode(data, smallest=preprocess.shortest_side)
    assert part.shape[1] < 900
    difference = (preprocess.resize(part).int() - preprocess.resize(decode(data)).int()).abs().float()
    assert difference.mean() < 1.2 and difference.max() <= 25


def test_a_turned_jpeg_is_decoded_near_the_wanted_size_and_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = photo_jpeg(640, 320, exif=exif)
    small, whole = decode(data, smallest=100), decode(data)
    assert tuple(small.shape[1:]) == (320, 160) and tuple(whole.shape[1:]) == (640, 320)
    halved = torch.nn.functional.avg_pool2d(whole.float(), 2)
    assert (small.float() - halved).abs().mean() < 3


def lossless_jpeg(width: int, height: int) -> bytes:
    """Return a flat grey JPEG of ITU T.81's lossless process: one Huffman code for "as the pixel before"."""

    def segment(marker: int, content: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content

    table = segment(0xC4, bytes([0, 1, *[0] * 15, 0]))
    frame = segment(0xC3, struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0]))
    scan = segment(0xDA, bytes([1, 1, 0, 1, 0, 0]))
    return b"\xff\xd8" + table + frame + scan + bytes(width * height // 8 + 1) + b"\xff\xd9"


def test_a_lossless_jpeg_is_decoded_in_full() -> None:
    # TurboJPEG does not scale it, and writes the whole of it wherever it was told to.
    data = lossless_jpeg(640, 480)
    for smallest in (None, 32, 64, 200):
        pixels = decode(data, smallest=smallest)
        assert tuple(pixels.shape) == (3, 480, 640) and bool((pixels == 128).all())


@pytest.mark.parametrize(
    ("change", "scaled"),
    [
        (lambda data: data, True),
        (lambda data: data[:2] + b"\xff\xff" + data[2:], True),  # filling
        (lambda data: data[:2] + b"\xff\xfe\x00\x06\xff\xc3ab" + data[2:], True),  # within a comment
        (lambda data: data[:2] + b"abc" + data[2:], False),
        (lambda data: data[:2] + b"\xff\xd0" + data[2:], False),
        (lambda data: data[:2] + b"\xff\xfe\x00\x01" + data[2:], False),
        (lambda data: data[:2], False),
        (lambda data: data.replace(b"\xff\xc0", b"\xff\xc3", 1), False),
        (lambda data: data.replace(b"\xff\xc0", b"\xff\xcb", 1), False),
        (lambda data: data.replace(b"\xff\xc0", b"\xff\xc2", 1), True),
    ],
)
def test_only_what_can_be_scaled_for_sure_is(change: Callable[[bytes], bytes], scaled: bool) -> None:
    frame = frame_of(change(photo_jpeg(64, 48)))
    assert (frame is not None and frame.has_dct) is scaled
    assert frame is None or (frame.width, frame.height, frame.components, frame.adobe) == (64, 48, b"\1\2\3", None)


def test_a_truncated_jpeg_is_refused_at_any_size() -> None:
    with pytest.raises(BadImage):
        decode(photo_jpeg(640, 480)[:-2000], smallest=60)
