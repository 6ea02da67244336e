"""TIFF by Pillow and libtiff: tags are looked at before they become numbers, and kinds that are not served named."""

from typing import Any

from PIL import ImageFile, ImagePalette
from PIL.TiffImagePlugin import TiffImageFile

from handlers.errors import BadImage, UnsupportedFormat

TAG_BYTES = 2**18  # of numbers in one tag: 65,536 strips
DEEP_COLOUR_MAP = 6 * 2**16
BYTES_AND_TEXT = (1, 2, 7)  # types of tags that are not made into numbers (TIFF 6.0, section 2)

IMAGE_WIDTH, IMAGE_HEIGHT = 256, 257
BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANES, COLOUR_MAP, SAMPLE_FORMAT, EXTRA_SAMPLES = (
    258,
    259,
    262,
    277,
    284,
    320,
    339,
    338,
)
YCBCR = 6
SEPARABLE = ("RGB", "RGBA", "CMYK", "LAB")  # modes whose planes Pillow combines
TILE_WIDTH = 322
JPEG_XR = 0xBC01  # a tag of Windows Media Photo, which is otherwise a TIFF
# What libtiff reads in Pillow's wheels. Old-style JPEG (6) is read where libtiff can mend its tags.
COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32809, 32946, 34925, 50000)
REFUSED_COMPRESSIONS = {
    "JBIG": (34661,),
    "JPEG": (34892,),  # of several kinds, in DNG
    "JPEG 2000": (33003, 33004, 33005, 34712),
    "JPEG XL": (50002, 52546),
    "JPEG XR": (34934,),
    "LERC": (34887,),
    "PNG": (34933,),
    "PixTIFF": (50013,),
    "SGI log": (34676, 34677),
    "WebP": (50001,),
}
COLOURS = {
    "grey": (0, 1),
    "RGB": (2,),
    "palette": (3,),
    "mask": (4,),
    "CMYK": (5,),
    "YCbCr": (6,),
    "LAB": (8, 9, 10),
    "raw camera": (32803, 34892),
    "logarithmic": (32844, 32845),
}
SAMPLE_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "untyped", 5: "complex", 6: "complex"}
UNSIGNED, SIGNED = 1, 2
# libtiff gives samples in the byte order of the machine, whatever that of the file; Pillow expects so of some only.
NATIVE_ORDER = {
    "F;32F": "F;32NF",
    "F;32BF": "F;32NF",
    "I;16": "I;16N",
    "I;16S": "I;16NS",
    "I;16BS": "I;16NS",
    "I;16B": "I;16N",
    "I;32S": "I;32NS",
    "I;32BS": "I;32NS",
}
WHAT_TO_SEND = "are not served; send one of 8 bits a sample, uncompressed or with LZW or Deflate, or a PNG"


class Tiff(TiffImageFile):
    """A TIFF of a kind that is read as a person sees it; `UnsupportedFormat` names the others."""

    def _open(self) -> None:
        file: Any = self.fp
        if file.read(4) == b"MM\0+":
            raise UnsupportedFormat(f"BigTIFF images with big-endian numbers {WHAT_TO_SEND}")
        file.seek(0)
        super()._open()

    def _setup(self) -> None:
        tags: Any = self.tag_v2
        _check_sizes(tags)
        check_kind(tags)
        try:
            super()._setup()
        except SyntaxError as error:
            if str(error) == "unknown pixel mode":
                raise UnsupportedFormat(f"TIFF images {kind_of_samples(tags)} {WHAT_TO_SEND}") from error
            raise
        self._correct_tiles()
        if self.mode in ("P", "PA") and max(tags[COLOUR_MAP]) < 256:  # as libtiff sees a map of 8 bits
            self.palette = ImagePalette.raw("RGB;L", tuple(tags[COLOUR_MAP]))

    def _correct_tiles(self) -> None:
        """Have libtiff read what Pillow's own reader of uncompressed images makes noise of, in the machine's order."""
        tiles: Any = self.tile
        if self.tag_v2.get(COMPRESSION, 1) == 1:
            if self.tag_v2.get(PHOTOMETRIC) == YCBCR:
                self._mode, rawmode = "RGB", "RGBX"
            elif self.tag_v2.get(PLANES) == 2 and self.mode in SEPARABLE:
                rawmode = f"{self.mode};16N" if max(self.tag_v2[BITS]) == 16 else self.mode
            elif TILE_WIDTH in self.tag_v2:
                rawmode = tiles[0].args[0]
            else:
                return
            self.use_load_libtiff = True
        else:
            rawmode = tiles[0].args[0]
        rawmode = NATIVE_ORDER.get(rawmode, rawmode)
        size = (self.tag_v2[IMAGE_WIDTH], self.tag_v2[IMAGE_HEIGHT])
        self.tile = [ImageFile._Tile("libtiff", (0, 0, *size), 0, (rawmode, False, self.tag_v2.offset))]

    @property
    def is_unsigned(self) -> bool:
        """Whether samples are without a sign, also those of 32 bits, which Pillow keeps in a signed type."""
        return int(self.tag_v2.get(SAMPLE_FORMAT, (UNSIGNED,))[0]) == UNSIGNED


def _check_sizes(tags: Any) -> None:
    """Refuse tags of too many bytes, before they become numbers."""
    for tag, data in tags._tagdata.items():
        if tag == COLOUR_MAP and len(data) == DEEP_COLOUR_MAP:
            raise UnsupportedFormat(f"TIFF images in palette of one sample of 16 bits {WHAT_TO_SEND}")
        if len(data) > TAG_BYTES and tags.tagtype[tag] not in BYTES_AND_TEXT:
            raise BadImage(f"tag {tag} of the TIFF image has {len(data)} bytes, more than the limit of {TAG_BYTES}")


def check_kind(tags: Any) -> None:
    """Raise UnsupportedFormat for a compression or samples that Pillow refuses without a reason, or reads wrongly."""
    compression = tags.get(COMPRESSION, 1)
    if JPEG_XR in tags:
        raise UnsupportedFormat("JPEG XR images are not served; send a JPEG or a PNG")
    if compression not in COMPRESSIONS:
        name = _named(REFUSED_COMPRESSIONS, compression)
        raise UnsupportedFormat(f"TIFF images compressed by {name} {WHAT_TO_SEND}")
    bits, signs = tags.get(BITS, (1,)), tags.get(SAMPLE_FORMAT, (UNSIGNED,))
    if (
        (SIGNED in signs and max(bits) <= 8)
        or (compression in (6, 7) and max(bits) > 8)
        or tags.get(SAMPLES, 1) > 6
        or (tags.get(PLANES) == 2 and tags.get(SAMPLES, 1) > 1 and not _are_planes_read(tags, max(bits)))
    ):
        raise UnsupportedFormat(f"TIFF images {kind_of_samples(tags)} {WHAT_TO_SEND}")


def _are_planes_read(tags: Any, bits: int) -> bool:
    extra, samples = tags.get(EXTRA_SAMPLES, ()), tags.get(SAMPLES, 1)
    if bits not in (8, 16) or tags.get(PHOTOMETRIC) == YCBCR:
        return False
    if any(extra):  # transparency
        return bool(samples == 4)
    return not extra or bool(samples - len(extra) >= 3 and tags.get(COMPRESSION, 1) != 1)


def kind_of_samples(tags: Any) -> str:
    """Return the colours, bits and types of a TIFF's samples in words."""
    colours = _named(COLOURS, tags.get(PHOTOMETRIC, 0))
    bits = sorted(set(tags.get(BITS, (1,))))
    types = sorted({SAMPLE_FORMATS.get(value, "untyped") for value in tags.get(SAMPLE_FORMAT, (UNSIGNED,))})
    planes = " in separate planes" if tags.get(PLANES) == 2 else ""
    count = tags.get(SAMPLES, 1)
    many = f"{count} samples" if count > 1 else "one sample"
    return f"in {colours} of {many} of {', '.join(map(str, bits))} bits ({', '.join(types)}){planes}"


def _named(names: dict[str, tuple[int, ...]], code: int) -> str:
    return next((name for name, codes in names.items() if code in codes), f"method {code}")
