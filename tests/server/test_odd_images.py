"""Odd, broken and hostile images: real ones where a person has them, generated ones otherwise."""

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from tests.server import odd_images
from tests.server.conftest import RunningServer, picture

GOOD = [picture(seed) for seed in range(3)]


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    """Return an image encoded by Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def png_bomb(side: int) -> bytes:
    """Return a small PNG whose header promises `side` times `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def generated() -> dict[str, tuple[bytes, int]]:
    """Return odd files with the status that each must get."""
    rgb = Image.open(io.BytesIO(picture(5, (60, 40)))).convert("RGB")
    jpeg, png = saved(rgb, "JPEG"), saved(rgb, "PNG")
    return {
        "grey.png": (saved(rgb.convert("L"), "PNG"), 200),
        "palette.gif": (saved(rgb.convert("P"), "GIF"), 200),
        "alpha.png": (saved(rgb.convert("RGBA"), "PNG"), 200),
        "deep.png": (saved(Image.new("I;16", (30, 30), 40_000), "PNG"), 200),
        "bilevel.png": (saved(rgb.convert("1"), "PNG"), 200),
        "print.jpg": (saved(rgb.convert("CMYK"), "JPEG"), 200),
        "pixel.png": (saved(Image.new("RGB", (1, 1)), "PNG"), 200),
        "strip.png": (saved(Image.new("RGB", (4000, 1)), "PNG"), 200),
        "photo.webp": (saved(rgb, "WEBP"), 200),
        "photo.bmp": (saved(rgb, "BMP"), 200),
        "text.ppm": (b"P3\n2 2\n255\n" + b"10 20 30 " * 4 + b"\n", 200),
        "cut.jpg": (jpeg[: len(jpeg) // 2], 400),
        "cut.png": (png[: len(png) // 2], 400),
        "head.jpg": (jpeg[:3], 400),
        "empty.jpg": (b"", 400),
        "words.txt": (b"this is not a photograph\r\nX-Header: no\r\n", 400),
        "page.html": (b"<html><body>404</body></html>", 400),
        "nul.bin": (bytes(5000), 400),
        "lines.bin": (b"\r\n" * 500, 400),
        "json.txt": (b'{"instances": 3}', 400),
        "deep.json": (b'{"instances": ' + b"[" * 50_000, 400),
        "drawing.pdf": (b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n", 415),
        "bomb.png": (png_bomb(60_000), 413),
        "heavy.bmp": (saved(Image.new("RGB", (400, 300)), "BMP"), 413),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the generated files."""
    folder = tmp_path_factory.mktemp("odd")
    for name, (data, _) in generated().items():
        (folder / name).write_bytes(data)
    return folder


def test_each_generated_file_gets_its_status(server: RunningServer, folder: Path) -> None:
    expected = {name: status for name, (_, status) in generated().items()}
    found = {}
    for name in expected:
        answer = odd_images.ask(server.client, (folder / name).read_bytes(), "shapes")
        found[name] = 200 if not hasattr(answer, "code") else answer.code
    assert found == expected


def test_odd_images_cost_nobody_else_anything(server: RunningServer, folder: Path, real_data: Path | None) -> None:
    source = folder if real_data is None else real_data / "odd_images"
    files = sorted(each for each in source.rglob("*") if each.is_file() and each.suffix != ".csv")
    report = odd_images.probe(server.client, "digits", files, GOOD)
    assert report.passed, report
    assert report.neighbours == len(GOOD) * len(files)
    assert 0 < report.answers["answered"] < len(files)
