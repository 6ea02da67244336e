"""Test cards: drawn images on which every fault of decoding and resizing shows, for an input of any size.

No two of a card's sides, corners and colours are alike, and its stripes are finer than the pixels of the resized image.
Whole numbers only: the same pixels on any machine.
"""

import io

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

Pixels = npt.NDArray[np.uint8]
PERIODS = (2, 3, 4, 5, 6, 8)  # pixels of the stripes
LIGHT, DARK = np.array([255, 245, 200]), np.array([0, 20, 0])
ORIENTATION = 0x0112  # EXIF 2.32
QUALITY = 80


def card(width: int, height: int) -> Pixels:
    """Return a card, uint8 (height, width, 3); no side is shorter than 12 pixels."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([x * 255 // width, y * 255 // height, 255 - (x + y) * 255 // (width + height)], axis=2)

    def area(left: int, right: int, top: int, bottom: int) -> tuple[slice, slice]:
        """Return an area in twelfths of the sides."""
        return slice(height * top // 12, height * bottom // 12), slice(width * left // 12, width * right // 12)

    for number, period in enumerate(PERIODS):
        left = 2 * number
        across, down = 2 * (x % period) < period, 2 * (y % period) < period
        checks = (x // period + y // period) % 2 == 0
        for place, pattern in (
            (area(left, left + 2, 1, 4), across),
            (area(left, left + 1, 5, 7), down),
            (area(left + 1, left + 2, 5, 7), checks),
        ):
            picture[place] = np.where(pattern[place][..., None], LIGHT, DARK)
    picture[area(1, 5, 8, 9)] = 230, 30, 30
    picture[area(1, 2, 8, 11)] = 30, 60, 220
    picture[area(7, 11, 10, 11)] = 240, 220, 40
    return picture.astype(np.uint8)


def turned(orientation: int) -> bytes:
    """Return metadata that ask for an orientation, 1 to 8, as a JPEG and a PNG have them."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


def png(picture: Pixels, exif: bytes = b"") -> bytes:
    """Return a picture as a small PNG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=9, exif=exif)
    return file.getvalue()


def jpeg(image: Pixels, quality: int) -> bytes:
    """Return an RGB (H, W, 3) image as baseline JPEG with halved colour planes; `quality` 1 to 100."""
    encoded: bytes = simplejpeg.encode_jpeg(image, quality=quality, colorspace="RGB", colorsubsampling="420")
    return encoded


def cards(side: int) -> dict[str, bytes]:
    """Return encoded cards, by file name, for a network whose images are scaled to `side` pixels.

    A JPEG that is large enough to be decoded at half its size, one in full that lies on its side, a tall PNG, a strip
    that is enlarged in one direction, and a small PNG that is mirrored: five aspect ratios.
    """

    def drawn(width: float, height: float) -> Pixels:
        return card(max(16, round(width * side)), max(16, round(height * side)))

    wide, lying = jpeg(drawn(3.6, 2.6), QUALITY), jpeg(drawn(2.1, 2.5), QUALITY)
    exif = turned(6)
    return {
        "wide.jpg": wide,
        "turned.jpg": lying[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + lying[2:],
        "tall.png": png(drawn(2, 3)),
        "strip.png": png(drawn(2.5, 0.25)),
        "mirrored.png": png(drawn(0.8, 0.5), turned(5)),
    }
