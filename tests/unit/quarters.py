"""A picture of four coloured quarters, encoded in every format that is served, and how to recognise it."""

import io
import struct
import zlib
from typing import Any

import torch
from PIL import Image

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


def transparent(mode: str) -> Image.Image:
    """Return the four quarters with the right half transparent, its colour black underneath."""
    alpha = Image.new("L", (48, 32), 255)
    alpha.paste(0, (24, 0, 48, 32))
    image = corners()
    image.paste((0, 0, 0), (24, 0, 48, 32))
    image.putalpha(alpha)
    return image.convert(mode)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
