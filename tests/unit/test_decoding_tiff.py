"""TIFF and deep samples: ranges, byte orders, planes, tiles and colour maps are read, and rare kinds named."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.errors import BadImage, UnsupportedFormat
from handlers.images.colours import value_range
from handlers.images.decoding import decode
from handlers.images.pillow import open_image
from tests.unit.quarters import GREEN, RED, WHITE, corners, encoded, is_corners, near, pixel


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
