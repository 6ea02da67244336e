"""Check the members of an archive's zip before it is unpacked."""

import stat
import struct
import zipfile
from pathlib import Path, PurePosixPath

LARGEST = 2**34  # bytes of all members; the largest networks here have half a gigabyte
RATIO = 20  # bytes of all members for each of the file: text deflates to a fifth, weights hardly
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED, UTF8 = 0x1, 0x800  # flags
HEADER = struct.Struct("<4s5H3L2H")  # of one member (APPNOTE.TXT, 4.3.7)
SIGNATURE = b"PK\3\4"
IN_ZIP64 = 2**32 - 1  # a size stored in the ZIP64 extra field


class MembersError(ValueError):
    """A zip has content that no archive has; the message completes "because ..."."""


def check(file: zipfile.ZipFile, path: Path) -> None:
    """Check that all members are regular files inside the archive, unique, and not larger than the file explains.

    Only the directory and the members' headers are read, and they must agree: TorchServe goes by the headers.

    Raises:
        MembersError: they are not.
    """
    members = file.infolist()
    total, size = sum(member.file_size for member in members), path.stat().st_size
    if total > min(LARGEST, RATIO * size):
        raise MembersError(f"{size} bytes unpack to {total}: at most {RATIO} times the size and {LARGEST} are read")
    names = set()
    for member in members:
        _check_member(member)
        if member.filename in names:
            raise MembersError(f"{member.filename!r} is listed twice")
        names.add(member.filename)
    _check_headers(file, path)


def _check_member(member: zipfile.ZipInfo) -> None:
    name = member.orig_filename  # not cut at a null byte
    inside = PurePosixPath(name)
    if not name or inside.is_absolute() or ".." in inside.parts or str(inside) != name or {"\\", "\0"} & set(name):
        raise MembersError(f"{name!r} is not a path inside it")
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise MembersError(f"{name!r} is not a regular file")
    if member.flag_bits & ENCRYPTED or member.compress_type not in METHODS:
        raise MembersError(f"{name!r} cannot be read by TorchServe")


def _check_headers(file: zipfile.ZipFile, path: Path) -> None:
    """Check that the file is, up to its directory, one member after the other as the directory lists them."""
    end = 0
    with open(path, "rb") as source:
        for member in sorted(file.infolist(), key=lambda member: member.header_offset):
            source.seek(end)
            header = source.read(HEADER.size)
            if member.header_offset != end or len(header) < HEADER.size:
                raise MembersError("it holds bytes that its directory does not list")
            signature, _, _, method, _, _, crc, compressed, whole, name_size, extra_size = HEADER.unpack(header)
            header_fields = (signature, method, crc, *(size for size in (compressed, whole) if size != IN_ZIP64))
            directory_fields = (SIGNATURE, member.compress_type, member.CRC, member.compress_size, member.file_size)
            name = member.orig_filename.encode("utf-8" if member.flag_bits & UTF8 else "cp437")
            if header_fields != directory_fields[: len(header_fields)] or source.read(name_size) != name:
                raise MembersError(f"{member.filename!r} has a header that contradicts the directory")
            end += HEADER.size + name_size + extra_size + member.compress_size
    if end != file.start_dir:
        raise MembersError("it holds bytes that its directory does not list")
