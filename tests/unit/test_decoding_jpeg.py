"""JPEG: damage is refused and harmless faults are not, rare kinds are named, large ones are decoded near their size."""

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.errors import BadImage, UnsupportedFormat
from handlers.images import jpeg
from handlers.images.decoding import decode
from handlers.images.jpeg import frame_of
from handlers.preprocessing import Preprocess
from handlers.spec import PreprocessSpec
from synthetic.photograph import photograph
from tests.unit.quarters import corners, encoded, is_corners


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
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_decoding_near_the_wanted_size_changes_little(side: int, resize: Any, interpolation: Any) -> None:
    spec = PreprocessSpec(image_size=side, resize=resize, crop_fraction=0.875, interpolation=interpolation)
    preprocess = Preprocess(spec)
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
