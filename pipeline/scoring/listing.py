"""The images of a folder, a text file, tar shards or a bucket, listed in a file: one line of JSON an image.

The list is written once, before the first answer. A command that continues reads it again, so that it sees the same
images in the same order, and millions of paths need no memory.
"""

import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import IO, Any, NamedTuple

from handlers.atomic import replacing
from handlers.images import pillow
from handlers.images.kinds import START_BYTES
from serving.errors import ServingError

TAR, COMPRESSED_TAR = ".tar", (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SHOWN_EVERY = 10_000  # images between two calls of `advance`


class ListingError(ServingError):
    """The images cannot be listed; the message says what to do."""


class ImageFile(NamedTuple):
    """An image: a whole file, or `size` bytes of a tar shard from `offset` on, with the name of that member."""

    file: str
    member: str = ""
    offset: int = 0
    size: int = -1

    @property
    def name(self) -> str:
        """Return the name for the table."""
        return f"{self.file}/{self.member}" if self.member else self.file

    def line(self) -> str:
        return json.dumps(self) if self.member else encode_basestring_ascii(self.file)

    @classmethod
    def parse(cls, line: str) -> "ImageFile":
        entry = json.loads(line)
        return cls(entry) if isinstance(entry, str) else cls(*entry)

    def read(self, limit: int) -> bytes:
        """Return the encoded image, or its first `limit` bytes and one more.

        Raises:
            OSError: it cannot be read.
        """
        with open_file(self.file) as file:
            file.seek(self.offset)
            return file.read(limit + 1 if self.size < 0 else min(self.size, limit + 1))


def is_url(text: str) -> bool:
    """Return whether a text names a file system of fsspec, such as gs://bucket/folder."""
    return "://" in text


def normal(source: str) -> str:
    """Return the same source without slashes at its end, or dots."""
    if not is_url(source):
        return str(Path(source))
    scheme, _, place = source.partition("://")
    return f"{scheme}://{place.rstrip('/')}"


def open_file(path: str) -> AbstractContextManager[IO[bytes]]:
    """Open a local file, or one of a bucket.

    Raises:
        OSError: it cannot be opened.
    """
    if not is_url(path):
        return open(path, "rb")
    import fsspec

    file: AbstractContextManager[IO[bytes]] = fsspec.open(path, "rb")
    return file


def write(source: str, path: Path, advance: Callable[[int], None] = lambda images: None) -> int:
    """Write the list of the images of a source; return their number.

    Raises:
        ListingError: there is no such source, or no file in it.
    """
    count = 0
    with replacing(path) as part, open(part, "w", encoding="ascii") as file:
        images = images_of(source)
        while lines := [image.line() + "\n" for image in islice(images, SHOWN_EVERY)]:
            file.writelines(lines)
            count += len(lines)
            advance(len(lines))
        if not count:
            raise ListingError(f"{source} names no file: give a folder, a list, a tar shard or a bucket with images")
    return count


def read(path: Path, size: int) -> Iterator[list[str]]:
    """Yield the lines of a list, `size` at a time."""
    with open(path, encoding="ascii") as file:
        while lines := [line.rstrip("\n") for line in islice(file, size)]:
            yield lines


def images_of(source: str) -> Iterator[ImageFile]:
    """Yield the images of a source.

    Hidden files are left out, as are members of a tar that do not begin as an image. All other files are images, or
    get an error in place of an answer.

    Raises:
        ListingError: there is no such source, or it cannot be read.
    """
    try:
        yield from _of_bucket(source) if is_url(source) else _of_path(Path(source))
    except (OSError, tarfile.TarError) as error:
        raise ListingError(f"{source} cannot be listed: {error}") from error


def _of_path(path: Path) -> Iterator[ImageFile]:
    if path.is_dir():
        for file in _files_below(path):
            yield from _of_file(file)
    elif not path.is_file():
        raise ListingError(f"{path} does not exist: name a folder, a text file with a path a line, or a tar shard")
    elif path.name.endswith((TAR, *COMPRESSED_TAR)) or _begins_as_image(path):
        yield from _of_file(str(path))
    else:
        yield from _of_list(path)


def _of_bucket(url: str) -> Iterator[ImageFile]:
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ListingError(f"{url} cannot be opened: {error}") from error
    if files.isfile(path):
        yield from _of_file(url)
        return
    for parent, folders, names in files.walk(path):
        _leave_hidden_out(folders)
        for name in names:
            if not name.startswith("."):
                yield from _of_file(str(files.unstrip_protocol(f"{parent}/{name}")))


def _files_below(folder: Path) -> Iterator[str]:
    """Yield the files below a folder; entries of a folder are not held in memory."""
    folders, visited = [str(folder)], set[tuple[int, int]]()  # a link may lead back to a folder that holds it
    while folders:
        parent = folders.pop()
        place = os.stat(parent)
        if (place.st_dev, place.st_ino) in visited:
            continue
        visited.add((place.st_dev, place.st_ino))
        with os.scandir(parent) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.path)
                else:
                    yield entry.path


def _leave_hidden_out(folders: Any) -> None:
    """Remove hidden folders from the next ones of a walk: a list, or a dictionary."""
    for name in [name for name in folders if name.startswith(".")]:
        if isinstance(folders, dict):
            del folders[name]
        else:
            folders.remove(name)


def _of_file(path: str) -> Iterator[ImageFile]:
    if path.endswith(COMPRESSED_TAR):
        raise ListingError(
            f"{path} is compressed, so that no member can be read by itself: unpack it, or make it a .tar"
        )
    if path.endswith(TAR):
        yield from _of_tar(path)
    else:
        yield ImageFile(path)


def _of_tar(path: str) -> Iterator[ImageFile]:
    with open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isreg() and pillow.begins_as_image(_start(file, member)):
                yield ImageFile(path, member.name, member.offset_data, member.size)
            tar.members = []  # type: ignore[attr-defined]  # it keeps them all


def _start(file: IO[bytes], member: tarfile.TarInfo) -> bytes:
    place = file.tell()
    file.seek(member.offset_data)
    start = file.read(min(START_BYTES, member.size))
    file.seek(place)
    return start


def _begins_as_image(path: Path) -> bool:
    with open(path, "rb") as file:
        return pillow.begins_as_image(file.read(START_BYTES))


def _of_list(path: Path) -> Iterator[ImageFile]:
    """Yield the images that a text file names, a path or an address a line; paths are relative to its folder."""
    beside = "" if path.parent == Path() else f"{path.parent}/"
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if name := line.rstrip("\r\n"):
                yield from _of_file(name if is_url(name) or name[0] == "/" else beside + name)
