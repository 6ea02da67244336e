"""AVIF by Pillow and libavif, with names for the kinds that neither reads right."""

import io
from typing import cast

from PIL.AvifImagePlugin import AvifImageFile

from handlers.errors import UnsupportedFormat

CROP = b"\0\0\0\x28clap"  # a box of 40 bytes, which libavif leaves to its callers (ISO/IEC 14496-12)
HEADER_BYTES = 2**14
MAX_BOXES = 64
# What libavif says of a container of other images, and of one that breaks a rule, such as an alpha without a size.
NO_AVIF = ("Invalid ftyp", "No content")
NOT_STANDARD = ("BMFF parsing failed", "Invalid image grid", "Invalid tone mapped")


class Avif(AvifImageFile):
    """An AVIF that is seen as it is stored, up to its turns; `UnsupportedFormat` names the others."""

    def _open(self) -> None:
        data = cast(io.BytesIO, self.fp).getbuffer()
        if CROP in bytes(data[:HEADER_BYTES]):
            raise UnsupportedFormat("AVIF images with a crop (clap) are not served: crop it, and send it again")
        try:
            super()._open()
        except (SyntaxError, RuntimeError) as error:
            if any(reason in str(error) for reason in NO_AVIF):
                raise UnsupportedFormat("HEIF images are not served; send one of JPEG, PNG or AVIF") from error
            if any(reason in str(error) for reason in NOT_STANDARD) and _is_whole(data):
                raise UnsupportedFormat(f"AVIF images that break the standard are not served: {error}") from error
            raise


def _is_whole(data: memoryview) -> bool:
    """Return whether the last box ends where the file does: none of it is missing."""
    place = 0
    for _ in range(MAX_BOXES):
        size = int.from_bytes(data[place : place + 4])
        place += size
        if size < 8 or place >= len(data):
            break
    return place == len(data)
