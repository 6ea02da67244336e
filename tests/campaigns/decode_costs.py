"""Measure the worst decoding cost of each format, and check it against the rates of handlers/images/costs.py.

    python -m tests.campaigns.decode_costs
    python -m tests.campaigns.decode_costs --megapixels 4

Each format as a file of few bytes (one colour, also turned by its EXIF orientation), which costs by its pixels, and as
one of many (noise), which costs by its bytes: decoded and resized in one thread as in a worker, with the memory
settings of `make serve`. A row is the worst of three runs, in seconds of the processor, beside the estimate from the
header. No image may take more than the budget's slack times its estimate.

Writes benchmarks/results/decode_costs.json; the last line is the same JSON document.
"""

import io
import os
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import console
from benchmarks.result import CAMPAIGNS, Origin
from handlers.budget import SLACK
from handlers.images.costs import cost_of
from handlers.images.decoder import Decoder
from handlers.images.limits import DEFAULT_LIMITS
from handlers.preprocessing import Preprocess
from handlers.spec import PreprocessSpec
from serving.host.resources import HUGE_PAGES

RESULT = Path("benchmarks/results/decode_costs.json")
SIZE, RUNS, TUNABLES = 224, 3, "GLIBC_TUNABLES"
PNG = {"compress_level": 1}
LOSSLESS = {"lossless": True, "method": 0, "quality": 0}
BANDS = ((1, 10), (11, 21), (22, 31), (32, 42), (43, 52), (53, 63))  # coefficients of a block
# Name -> format, mode and options.
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "JPEG": ("JPEG", "RGB", {"quality": 90, "subsampling": 0}),
    "JPEG, progressive": ("JPEG", "RGB", {"quality": 80, "progressive": True}),
    "JPEG, CMYK": ("JPEG", "CMYK", {"quality": 70}),
    "PNG": ("PNG", "RGB", PNG),
    "PNG, alpha": ("PNG", "RGBA", PNG),
    "PNG, 16 bits": ("PNG", "I;16", PNG),
    "GIF": ("GIF", "P", {}),
    "GIF, transparent": ("GIF", "P", {"transparency": 3}),
    "BMP": ("BMP", "1", {}),
    "PPM": ("PPM", "L", {}),
    "TIFF, deflate": ("TIFF", "RGBA", {"compression": "tiff_adobe_deflate"}),
    "TIFF, LZW": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "TIFF, LZMA": ("TIFF", "L", {"compression": "lzma"}),
    "TIFF, group 4": ("TIFF", "1", {"compression": "group4"}),
    "TIFF, JPEG": ("TIFF", "RGB", {"compression": "jpeg", "quality": 60}),
    "TIFF, LAB": ("TIFF", "LAB", {"compression": "tiff_lzw"}),
    "TIFF, float": ("TIFF", "F", {"compression": "tiff_lzw"}),
    "WebP": ("WEBP", "RGB", {"quality": 60, "method": 0}),
    "WebP, alpha": ("WEBP", "RGBA", {"quality": 50, "method": 0}),
    "WebP, lossless": ("WEBP", "RGB", LOSSLESS),
    "WebP, lossless, alpha": ("WEBP", "RGBA", LOSSLESS),
    "AVIF": ("AVIF", "RGB", {"speed": 10, "quality": 80}),
    "AVIF, 4:4:4, alpha": ("AVIF", "RGBA", {"speed": 10, "quality": 60, "subsampling": "4:4:4"}),
}


def pixels(mode: str, width: int, height: int, *, noise: bool) -> Image.Image:
    """Return one colour, or noise over a picture, in a mode of Pillow's."""
    shape = (height, width, 4)
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8) if noise else np.full(shape, 90, np.uint8)
    if mode in ("F", "I;16"):
        return Image.fromarray(values[..., 0].astype(np.float32 if mode == "F" else np.uint16) * 3)
    return Image.fromarray(values).convert(mode)


def encoded(kind: str, megapixels: float, *, noise: bool, turned: bool) -> bytes:
    """Return a file of a kind, with fewer pixels if it would exceed the limit of bytes."""
    name, mode, options = KINDS[kind]
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    metadata = {"exif": exif.tobytes()} if turned else {}
    while True:
        height = int((megapixels * 1e6 * 3 / 4) ** 0.5)
        file = io.BytesIO()
        pixels(mode, height * 4 // 3, height, noise=noise).save(file, name, **options, **metadata)
        if len(file.getvalue()) <= DEFAULT_LIMITS.max_bytes:
            return file.getvalue()
        megapixels /= 1.5


def scans(megapixels: float) -> bytes:
    """Return a grey JPEG of 98 scans, a bit of the means or of one of `BANDS` in each (ITU T.81, G.1)."""

    def segment(marker: int, content: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content

    side = int((megapixels * 1e6) ** 0.5) // 8 * 8
    blocks = (side // 8) ** 2
    means, (symbol, ends) = bytes(-(-blocks // 8)), _ends(blocks)
    head = segment(0xDB, bytes([0, *[1] * 64])) + segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    head += segment(0xC4, bytes([0, 1, *[0] * 15, 0])) + segment(0xC4, bytes([0x10, 1, *[0] * 15, symbol]))
    parts = []
    for first, last, data in ((0, 0, means), *((low, high, ends) for low, high in BANDS)):
        for bit in range(13, -1, -1):
            above = 0 if bit == 13 else bit + 1
            parts.append(segment(0xDA, bytes([1, 1, 0, first, last, above << 4 | bit])) + data)
    return b"\xff\xd8" + head + b"".join(parts) + b"\xff\xd9"


def _ends(blocks: int) -> tuple[int, bytes]:
    """Return a symbol and coded data for runs of blocks, of even lengths, without further coefficients."""
    number = -(-blocks // 32767)
    lengths = [blocks // number + (place < blocks % number) for place in range(number)]
    size = lengths[-1].bit_length() - 1
    bits = "".join("0" + (f"{length - 2**size:0{size}b}" if size else "") for length in lengths)
    bits += "1" * (-len(bits) % 8)
    return size << 4, int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")


def files(megapixels: float) -> Iterator[tuple[str, bytes]]:
    """Yield names and files."""
    for kind in KINDS:
        for name, noise, turned in (("one colour", False, False), ("turned", False, True), ("noise", True, False)):
            if turned and KINDS[kind][0] not in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF"):
                continue
            yield f"{kind}: {name}", encoded(kind, megapixels, noise=noise, turned=turned)
    yield "JPEG, progressive: 98 scans", scans(megapixels)
    yield "PPM: 16 bits", b"P6 362 362 65535\n" + bytes(362 * 362 * 6)
    yield "PPM: text", b"P2 250 250 9\n" + b"1 " * 250**2


def row(decoder: Decoder, name: str, data: bytes) -> dict[str, Any]:
    """Return the measured and the estimated seconds of one file."""
    cost = cost_of(data, DEFAULT_LIMITS)
    times = []
    for _ in range(RUNS):
        start = time.thread_time()
        (image,) = decoder.decode([data])
        times.append(time.thread_time() - start)
        if not isinstance(image, torch.Tensor):
            raise image
    return {
        "name": name,
        "bytes": len(data),
        "megapixels": round(cost.pixels / 1e6, 2),
        "seconds": round(max(times), 4),
        "estimate": round(cost.seconds, 4),
        "part_of_estimate": round(max(times) / cost.seconds, 2),
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    cells = []
    for row in rows:
        megabytes, milliseconds = f"{row['bytes'] / 1e6:.2f}", 1e3 * row["seconds"]
        times = (f"{milliseconds:.0f}", f"{milliseconds / row['megapixels']:.1f}", f"{1e3 * row['estimate']:.0f}")
        cells.append((row["name"], megabytes, row["megapixels"], *times, f"{row['part_of_estimate']:.0%}"))
    head = ("", "MB", "megapixels", "ms", "ms a megapixel", "estimate, ms", "of the estimate")
    console.print_table("decoding and resizing, one thread", head, cells)


def main() -> int:
    """Measure, print and write the result; 1 where an image takes more than the slack allows."""
    parser = console.parser("decode_costs", __doc__, CAMPAIGNS)
    parser.add_argument("--megapixels", type=float, default=12.0)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    origin = Origin("decode_costs", sys.argv[1:], package=CAMPAIGNS, code=("handlers",))
    torch.set_num_threads(1)
    decoder = Decoder(Preprocess(PreprocessSpec(image_size=SIZE)), DEFAULT_LIMITS, None)
    rows = [row(decoder, name, data) for name, data in files(options.megapixels)]
    worst = max(row["part_of_estimate"] for row in rows)
    show(rows)
    return origin.publish({"slack": SLACK, "rows": rows, "worst": worst}, options.output, failed=worst > SLACK)


if __name__ == "__main__":
    if TUNABLES not in os.environ:  # read by the C library when a program starts
        os.environ[TUNABLES] = HUGE_PAGES
        os.execv(sys.executable, [sys.executable, "-m", "tests.campaigns.decode_costs", *sys.argv[1:]])
    sys.exit(main())
