"""Names for the files that people send and that are not served, by their first bytes."""

import re

RAW, FILM = "raw camera images", "QuickTime films"
# The first bytes of a file, their offset, and its name.
STARTS: tuple[tuple[bytes, int, str], ...] = (
    (b"\xff\x0a", 0, "JPEG XL images"),
    (b"\0\0\0\x0cJXL ", 0, "JPEG XL images"),
    (b"II\xbc", 0, "JPEG XR images"),
    (b"\xff\x4f\xff\x51", 0, "JPEG2000 images"),
    (b"#?RADIANCE", 0, "Radiance HDR images"),
    (b"#?RGBE", 0, "Radiance HDR images"),
    (b"\x76\x2f\x31\x01", 0, "OpenEXR images"),
    (b"FLIF", 0, "FLIF images"),
    (b"BPG\xfb", 0, "BPG images"),
    (b"P7\n", 0, "PAM images"),
    (b"farbfeld", 0, "farbfeld images"),
    (b"AT&TFORM", 0, "DjVu documents"),
    (b"gimp xcf", 0, "XCF images"),
    (b"\x8aMNG", 0, "MNG films"),
    (b"\x8bJNG", 0, "JNG images"),
    (b"DICM", 128, "DICOM images"),
    (b"IIRO", 0, RAW),  # of Olympus
    (b"IIRS", 0, RAW),
    (b"IIU\0", 0, RAW),  # of Panasonic
    (b"FUJIFILMCCD-RAW", 0, RAW),
    (b"FOVb", 0, RAW),  # of Sigma
    (b"\0MRM", 0, RAW),  # of Minolta
    (b"HEAPCCDR", 6, RAW),  # of Canon
    (b"%PDF-", 0, "PDF documents"),
    (b"\x1a\x45\xdf\xa3", 0, "WebM and Matroska films"),
    (b"\0\0\1\xba", 0, "MPEG films"),
    (b"\0\0\1\xb3", 0, "MPEG films"),
    (b"OggS", 0, "Ogg films"),
    (b"FLV\1", 0, "Flash films"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", 0, "Windows Media films"),
    (b"AVI ", 8, "AVI films"),
    (b"WAVE", 8, "WAVE sounds"),
    (b"moov", 4, FILM),
    (b"mdat", 4, FILM),
    (b"wide", 4, FILM),
    (b"PK\3\4", 0, "ZIP archives"),
    (b"\x1f\x8b", 0, "gzip files"),
    (b"\x93NUMPY", 0, "NumPy arrays"),
)
# The first brand of an ISO base media file, beside those of AVIF.
BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avci"), "HEIF images"),
    **dict.fromkeys((b"jp2 ", b"jpx ", b"jph "), "JPEG2000 images"),
    b"crx ": RAW,
}
START_BYTES = 4096  # that an SVG may take for declarations and comments
SVG = re.compile(rb"<(?:\w{1,20}:)?svg[\s>]")


def kind_of(start: bytes) -> str:
    """Return the name, in the plural, of the files that begin so; empty for those that have none here."""
    for mark, place, name in STARTS:
        if start.startswith(mark, place):
            return name
    if start[4:8] == b"ftyp":
        return BRANDS.get(start[8:12], "MP4 and QuickTime films")
    text = start[:START_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return "SVG drawings" if text.startswith(b"<") and b"<html" not in text and SVG.search(text) else ""
