"""Each kind of image decodes to what a person sees, and each broken one to a RequestError."""

import logging
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from handlers.errors import BadImage, RequestError, TooLarge, UnsupportedFormat
from handlers.images import avif
from handlers.images.decoding import decode
from handlers.images.limits import Limits
from handlers.images.orientation import upright
from handlers.images.pillow import FORMATS
from tests.unit.quarters import PLAIN, RED, WHITE, corners, encoded, is_corners, near, pixel, png_chunk, transparent


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
