"""Unpack a zip or a tar of images into data/raw/unpacked, once for the same bytes.

Nothing in an archive is trusted: names that lead outside, links, devices and encrypted files are refused, and so are
files that would fill the disk or that grow far more than images do.
"""

import contextlib
import hashlib
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Generator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from rich.console import Console

from handlers import atomic
from training.data.progress import plain_console, progress
from training.data.readers.folder import listing
from training.data.readers.sides import names_side
from training.data.records import DatasetError

CACHE = Path("data/raw/unpacked")
# An archive may always grow to ALLOWANCE bytes, and to RATIO times its size: images hardly shrink when they are packed.
ALLOWANCE, RATIO = 10**9, 200
_SPARE_BYTES = 10**9  # of the disk, which is left free
_SMALLEST = 512  # that a member counts for: an empty one costs an inode
_DEEPEST, _LONGEST = 50, 255  # folders on the way to a file, bytes of a name
_BLOCK = 1 << 20
_SUFFIXES = frozenset((".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz"))
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)
_YOURSELF = "If you trust it, unpack it yourself and give the folder with RAW=<folder>"


class _Member(NamedTuple):
    """One file or folder of an archive; `fault` says why it cannot be unpacked."""

    name: str
    content: IO[bytes] | None
    fault: str | None = None


def is_archive(path: Path) -> bool:
    """Return whether `path` is a file that this module unpacks, by its content, or is to, by its name."""
    return path.is_file() and (path.suffix.lower() in _SUFFIXES or zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def name_of(path: Path) -> str:
    """Return the name of a folder, or of an archive without its suffixes: `birds` for birds.tar.gz."""
    return path.name if path.is_dir() else re.sub(r"(\.tar)?\.[A-Za-z0-9]+$", "", path.name)


def unpack(path: Path, root: Path, console: Console | None = None) -> Path:
    """Return the folder that holds the files of the archive `path`, unpacked below `root` unless it was before.

    A single folder around everything else is stepped into, unless it is a side of the layout.

    Raises:
        DatasetError: the archive is damaged, holds a link or another refused file, or grows too large.
        OSError: it cannot be read, or the disk cannot be written.
    """
    console = console or plain_console()
    target = root / CACHE / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name_of(path))[:40]}-{_digest(path, console)}"
    if not target.is_dir():
        _unpack_into(target, path, console)
    return _innermost(target)


def _unpack_into(target: Path, path: Path, console: Console) -> None:
    """Unpack an archive into the folder `target`, which appears in one step."""
    try:
        with atomic.replacing(target) as folder:
            folder.mkdir()
            _extract(path, folder, console)
    except NotImplementedError as error:  # of zipfile, for compression such as Deflate64
        raise DatasetError(f"{path} cannot be unpacked, {error}. {_YOURSELF}") from error
    except _DAMAGE as error:
        raise DatasetError(f"{path} cannot be unpacked, {error}. Copy or download it again") from error
    except OSError as error:
        if error.errno is None:  # gzip's and bz2's own
            raise DatasetError(f"{path} cannot be unpacked, {error}. Copy or download it again") from error
        if not target.is_dir():  # else another process was faster
            raise


def _innermost(folder: Path) -> Path:
    while True:
        files, folders = listing(folder)
        # A side is part of a layout, and not a wrapper around it.
        if files or len(folders) != 1 or names_side(folders[0]):
            return folder
        folder = folder / folders[0]


def _digest(path: Path, console: Console) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file, progress(console, f"reading {path.name} (MB)", path.stat().st_size >> 20) as advance:
        while block := file.read(_BLOCK):
            digest.update(block)
            advance(1)
    return digest.hexdigest()[:16]


def _extract(path: Path, folder: Path, console: Console) -> None:
    free = max(0, shutil.disk_usage(folder).free - _SPARE_BYTES)
    room = min(ALLOWANCE + RATIO * path.stat().st_size, free)
    used = 0
    with progress(console, f"unpacking {path.name}") as advance, contextlib.closing(_members(path)) as members:
        for member in members:
            if member.fault:
                raise DatasetError(f"{path}: {member.name!r} {member.fault}, which is not unpacked. {_YOURSELF}")
            target = folder / _inside(path, member.name)
            used += _SMALLEST
            try:
                (target if member.content is None else target.parent).mkdir(parents=True, exist_ok=True)
                if member.content is not None:
                    with open(target, "xb") as file:
                        while block := member.content.read(_BLOCK):
                            used += len(block)
                            _check_room(path, used, room)
                            file.write(block)
            except (FileExistsError, NotADirectoryError) as error:
                raise DatasetError(f"{path}: it holds {member.name!r} twice. {_YOURSELF}") from error
            _check_room(path, used, room)
            advance(1)


def _check_room(path: Path, used: int, room: int) -> None:
    if used > room:
        raise DatasetError(
            f"{path} grows to more than {room / 1e9:.1f} GB, which is more than there is room for on the disk, or than "
            f"{RATIO} times its size. {_YOURSELF}"
        )


def _inside(path: Path, name: str) -> PurePosixPath:
    """Return a member's path below the folder to unpack to."""
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\0" in name:
        raise DatasetError(f"{path}: {name!r} leads out of the folder that it is unpacked to. {_YOURSELF}")
    if len(inside.parts) > _DEEPEST or any(len(os.fsencode(part)) > _LONGEST for part in inside.parts):
        raise DatasetError(f"{path}: {name[:60]!r}… is too deep or too long for a file system. {_YOURSELF}")
    return inside


def _members(path: Path) -> Generator[_Member]:
    if zipfile.is_zipfile(path):
        return _zip_members(path)
    if tarfile.is_tarfile(path):
        return _tar_members(path)
    raise tarfile.ReadError("it is no zip or tar that is whole")


def _zip_members(path: Path) -> Generator[_Member]:
    with zipfile.ZipFile(path) as packed:
        for info in packed.infolist():
            name = _zip_name(info)
            if stat.S_ISLNK(info.external_attr >> 16):
                yield _Member(name, None, "is a link")
            elif info.flag_bits & 1:
                yield _Member(name, None, "is encrypted")
            elif info.is_dir():
                yield _Member(name, None)
            else:
                with packed.open(info) as content:
                    yield _Member(name, content)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name: some programs write UTF-8 without saying so, some backslashes."""
    name = info.filename
    if not info.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name if "/" in name else name.replace("\\", "/")


def _tar_members(path: Path) -> Generator[_Member]:
    with tarfile.open(path, "r:*") as packed:
        while (info := packed.next()) is not None:
            packed.members = []  # type: ignore[attr-defined]  # it would remember them all
            if info.isdir():
                yield _Member(info.name, None)
            elif info.isreg():
                yield _Member(info.name, packed.extractfile(info))
            else:
                yield _Member(info.name, None, "is a link" if info.issym() or info.islnk() else "is a device")
        # What follows the last member is padding: a packed tar shows only at its end that it is whole.
        for _ in range(ALLOWANCE // _BLOCK):
            if packed.fileobj is None or not packed.fileobj.read(_BLOCK):
                break
    _check_end(path)


def _check_end(path: Path) -> None:
    """Refuse a tar that is cut between two members, which `tarfile` takes for its end; a packed one shows it itself."""
    try:
        tarfile.open(path, "r:").close()
    except tarfile.TarError:
        return
    with open(path, "rb") as file:
        file.seek(-tarfile.BLOCKSIZE, os.SEEK_END)
        if any(file.read()):
            raise tarfile.ReadError("it is cut off")
