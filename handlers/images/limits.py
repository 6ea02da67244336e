"""What one image may cost: its bytes and its pixels, known before anything of it is decoded, and pieces to read."""

import dataclasses
import io

from handlers.errors import BadImage, TooLarge

LONGEST_SIDE = 65_535  # pixels
# A photograph takes a few hundred, a PNG of 20 MB in small chunks 20,000. Hostile ones have room for 20 million, at a
# microsecond or two each.
MOST_READS = 2**17


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one encoded image may cost: its size in bytes, and its width times height in pixels.

    8192 x 6144 pixels hold a photograph of 50 megapixels; the modes of 108 and 200 megapixels of some phones
    are beyond both limits. To decode 50 megapixels takes up to 0.8 GB (measured: WebP) while it lasts, and to raise the
    limit raises that in proportion. No side may be longer than JPEG's own longest: to resize a line of 50
    million pixels would take a gigabyte of filter weights.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 8192 * 6144  # 50331648, as in training/configs/config.yaml

    def check_bytes(self, size: int) -> None:
        """Raise TooLarge for an image of more encoded bytes than the limit."""
        if size > self.max_bytes:
            raise TooLarge(f"the image has {size} bytes, more than the limit of {self.max_bytes}")

    def check_pixels(self, width: int, height: int) -> None:
        """Raise TooLarge for an image of more pixels than the limit, or with a side longer than `LONGEST_SIDE`."""
        if max(width, height) > LONGEST_SIDE:
            raise TooLarge(f"the image has {width} x {height} pixels, a side longer than the limit of {LONGEST_SIDE}")
        if width * height > self.max_pixels:
            raise TooLarge(f"the image has {width} x {height} pixels, more than the limit of {self.max_pixels}")


DEFAULT_LIMITS = Limits()
UNLIMITED = Limits(max_bytes=2**40, max_pixels=LONGEST_SIDE**2)  # for images that were checked before


class BoundedReads(io.BytesIO):
    """An encoded image, for a decoder that walks its markers, chunks or blocks in Python."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        super().__init__(data)
        self._left = MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes.

        Raises:
            BadImage: asked for the `MOST_READS`th time.
        """
        self._left -= 1
        if self._left <= 0:
            raise BadImage(f"the image is in more than {MOST_READS:,} pieces")
        return super().read(size)
