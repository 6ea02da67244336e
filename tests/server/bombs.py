"""Images whose few bytes hold, or claim to hold, far more pixels than a server may decode.

Each maker takes a width and a height: at a few pixels it makes a plain black image that any decoder reads, which shows
that the large ones are what they seem. The ones named `claim_*` are headers with nothing behind them.
"""

import struct
import zlib


def _png(width: int, height: int, data: bytes, bits: int = 1, colour: int = 0) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def claim_png(width: int, height: int) -> bytes:
    """Return a PNG of 8-bit RGB that ends after its header."""
    return _png(width, height, b"", 8, 2)


def _zeros(count: int) -> bytes:
    """Return so many zeros as a zlib stream, without ever holding them: blocks of deflate are put side by side."""
    block, whole = 2**20, zlib.compressobj(9, zlib.DEFLATED, -15)
    # After a full flush nothing refers back: the same bytes stand for the same million zeros wherever they are.
    repeated = whole.compress(bytes(block)) + whole.flush(zlib.Z_FULL_FLUSH)
    rest = zlib.compressobj(9, zlib.DEFLATED, -15)
    tail = rest.compress(bytes(count % block)) + rest.flush()
    adler = (count % 65521) << 16 | 1  # of zeros
    return b"\x78\xda" + repeated * (count // block) + tail + struct.pack(">I", adler)


def png_of_bits(width: int, height: int) -> bytes:
    """Return a whole PNG of one bit a pixel: 65,536 x 65,536 in half a megabyte."""
    return _png(width, height, _zeros(height * (1 + (width + 7) // 8)))


def png_of_bytes(width: int, height: int) -> bytes:
    """Return a whole grey PNG of eight bits a pixel: 65,536 x 65,536 in four megabytes."""
    return _png(width, height, _zeros(height * (1 + width)), 8)


def _tiff(width: int, height: int, strip: bytes, rows: int, compression: int) -> bytes:
    """Return a TIFF of one bit a pixel, each of whose strips of `rows` rows is the same place in the file."""
    count = -(-height // rows)
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 1), (259, 3, 1, compression), (262, 3, 1, 1),
        (273, 4, count, 8), (277, 3, 1, 1), (278, 4, 1, rows), (279, 4, count, len(strip)),
    ]  # fmt: skip
    directory = 8 + len(strip) + 8 * count * (count > 1)
    if count > 1:  # more than one value stands elsewhere
        offsets, sizes = 8 + len(strip), 8 + len(strip) + 4 * count
        entries = [(t, k, n, {273: offsets, 279: sizes}.get(t, v)) for t, k, n, v in entries]
    lists = (struct.pack("<I", 8) * count + struct.pack("<I", len(strip)) * count) if count > 1 else b""
    fields = b"".join(
        struct.pack("<HHI", t, k, n) + struct.pack("<I" if k == 4 else "<HH", *((v,) if k == 4 else (v, 0)))
        for t, k, n, v in entries
    )
    return (
        b"II*\0" + struct.pack("<I", directory) + strip + lists
        + struct.pack("<H", len(entries)) + fields + struct.pack("<I", 0)
    )  # fmt: skip


def claim_tiff(width: int, height: int) -> bytes:
    """Return an uncompressed TIFF without its pixels."""
    return _tiff(width, height, b"", height, 1)


def tiff_of_bits(width: int, height: int) -> bytes:
    """Return a whole TIFF of one bit a pixel, packed by deflate."""
    rows = min(height, 64)
    return _tiff(width, -(-height // rows) * rows, _zeros(rows * ((width + 7) // 8)), rows, 8)


def _bmp(width: int, height: int, bits: int, compression: int, palette: bytes, data: bytes) -> bytes:
    start = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + data


def claim_bmp(width: int, height: int) -> bytes:
    """Return a BMP of 24 bits a pixel that ends after its header."""
    return _bmp(width, height, 24, 0, b"", b"")


def bmp_of_runs(width: int, height: int) -> bytes:
    """Return a whole BMP packed by runs, whose codes skip up to 255 rows each: what is skipped is of colour 0."""
    skips = b"\0\2\0\xff" * (height // 255) + b"\0\2\0" + bytes([height % 255])
    return _bmp(width, height, 8, 1, bytes(4 * 256), skips + b"\0\1")


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _jpeg(width: int, height: int, data: bytes) -> bytes:
    table = _segment(0xDB, bytes([0, *[1] * 64]))
    frame = _segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0]))
    codes = _segment(0xC4, bytes([0, 1, *[0] * 15, 0]))  # one code of one bit: as the block before
    scan = _segment(0xDA, bytes([1, 1, 0, 0, 0, 0]))  # of a progressive image: the blocks' means, and nothing else
    return b"\xff\xd8" + table + frame + codes + scan + data + b"\xff\xd9"


def claim_jpeg(width: int, height: int) -> bytes:
    """Return a grey JPEG that ends after its header."""
    return _jpeg(width, height, b"")


def jpeg_of_means(width: int, height: int) -> bytes:
    """Return a whole grey JPEG of one bit a block: 65,500 x 65,500 in eight megabytes."""
    blocks = -(-width // 8) * -(-height // 8)
    return _jpeg(width, height, bytes(-(-blocks // 8)))


def _riff(kind: bytes, content: bytes) -> bytes:
    content += b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", 12 + len(content)) + b"WEBP" + kind + struct.pack("<I", len(content)) + content


def claim_webp(width: int, height: int) -> bytes:
    """Return a lossy WebP that ends after its key frame's header."""
    return _riff(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(16))


def webp_of_one_colour(width: int, height: int) -> bytes:
    """Return a whole lossless WebP in which each of the five codes has one symbol: no pixel takes a bit."""
    fields = [(0x2F, 8), (width - 1, 14), (height - 1, 14), (0, 1), (0, 3)]
    fields += [(0, 1), (0, 1), (0, 1)]  # no transform, no colour cache, one group of codes
    fields += [(1, 1), (0, 1), (0, 1), (0, 1)] * 5  # simple, of one symbol, of one bit, and that is 0
    bits = place = 0
    for value, width_of_it in fields:
        bits |= value << place
        place += width_of_it
    return _riff(b"VP8L", bits.to_bytes(-(-place // 8) + 8, "little"))
