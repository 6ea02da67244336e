"""What an image costs is read off its header, whatever its format; nothing of it is decoded."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from handlers.budget import SLACK
from handlers.errors import BadImage, RequestError, TooLarge, UnsupportedFormat
from handlers.images import costs, jpeg
from handlers.images.costs import RATES, cost_of
from handlers.images.decoder import Decoder
from handlers.images.decoding import decode
from handlers.images.limits import DEFAULT_LIMITS, Limits
from handlers.images.pillow import FORMATS
from handlers.preprocessing import Preprocess
from handlers.spec import PreprocessSpec
from tests.campaigns import decode_costs
from tests.server import bombs

SIZE = (240, 160)


def encoded(name: str, mode: str = "RGB", size: tuple[int, int] = SIZE, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, name, **options)
    return file.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_pixels_and_a_rate_are_known_for_every_format_that_is_served(name: str) -> None:
    image = encoded(name)
    cost = cost_of(bytearray(image), DEFAULT_LIMITS)
    assert cost.pixels == SIZE[0] * SIZE[1] and 0 < cost.seconds < 0.1
    assert name == "AVIF" or any(image.startswith(start) for start in RATES)


@pytest.mark.parametrize(
    "image",
    [b"no image", b"", encoded("PNG")[:20], bombs.claim_png(2**20, 2**20), b"\0\0\0\x0cjP  \r\n\x87\n", bytes(2000)],
    ids=["text", "nothing", "cut", "bomb", "JPEG 2000", "long"],
)
def test_what_is_wrong_with_a_header_is_said_as_by_decoding(image: bytes) -> None:
    limits = Limits(max_bytes=1000)
    errors = []
    for read in (cost_of, lambda image, limits: decode(image, limits=limits)):
        with pytest.raises(RequestError) as caught:
            read(image, limits)
        errors.append((caught.type, str(caught.value)))
    assert errors[0] == errors[1] and errors[0][0] in (BadImage, TooLarge, UnsupportedFormat)


BOMBS = (bombs.webp_of_one_colour, bombs.png_of_bytes, bombs.tiff_of_bits, bombs.jpeg_of_means)


@pytest.mark.parametrize("bomb", BOMBS)
def test_the_largest_image_costs_its_pixels_and_no_time_yet(bomb: object) -> None:
    image = bomb(8192, 6144)  # type: ignore[operator]
    began = time.thread_time()
    cost = cost_of(image, DEFAULT_LIMITS)
    assert time.thread_time() - began < 0.05
    assert cost.pixels == 8192 * 6144 and 0.2 < cost.seconds < 2


def test_each_further_scan_of_a_jpeg_costs_a_pass_over_it() -> None:
    baseline, progressive = encoded("JPEG", quality=20), encoded("JPEG", quality=20, progressive=True)
    scan = progressive[progressive.rindex(jpeg.SCAN) : -2]
    longer, as_long = (progressive[:-2] + each + progressive[-2:] for each in (20 * scan, bytes(20 * len(scan))))
    first, second, third, fourth = (
        cost_of(image, DEFAULT_LIMITS).seconds for image in (baseline, progressive, as_long, longer)
    )
    assert first < second < third
    assert fourth - third == pytest.approx(20 * costs.PROGRESSIVE.scans * SIZE[0] * SIZE[1] / 1e9)


def test_pixels_that_are_read_one_by_one_cost_a_thousand_times_as_much() -> None:
    small = cost_of(b"P6 300 300 65535\n" + bytes(300 * 300 * 6), DEFAULT_LIMITS)
    large = cost_of(b"P6 600 600 255\n" + bytes(600 * 600 * 3), DEFAULT_LIMITS)
    assert small.seconds > 10 * large.seconds


@pytest.mark.parametrize("noise", [False, True], ids=["one colour", "noise"])
@pytest.mark.parametrize("kind", ["JPEG", "JPEG, progressive", "PNG, alpha", "GIF", "TIFF, LAB", "WebP", "AVIF"])
def test_no_image_takes_much_longer_than_its_header_says(kind: str, noise: bool) -> None:
    """`python -m tests.campaigns.decode_costs` measures all kinds, at sizes that count."""
    decoder = Decoder(Preprocess(PreprocessSpec(image_size=64)), DEFAULT_LIMITS, None)
    found = decode_costs.row(decoder, kind, decode_costs.encoded(kind, 0.5, noise=noise, turned=False))
    assert found["seconds"] < SLACK * found["estimate"] + 0.01 and found["megapixels"] == pytest.approx(0.5, rel=0.02)


def test_the_benchmark_measures_files_that_are_read() -> None:
    """A file of 98 scans that are not as the standard has them is refused as damaged, and costs nothing."""
    decoder = Decoder(Preprocess(PreprocessSpec(image_size=16)), DEFAULT_LIMITS, None)
    rows = [decode_costs.row(decoder, name, data) for name, data in decode_costs.files(0.02)]
    assert len(rows) > 60 and all(row["seconds"] > 0 for row in rows)
    assert jpeg.scans(decode_costs.scans(0.02)) == 98 and jpeg.scans(decode_costs.scans(3.0)) == 98
