"""The files of a prediction log: segments of bounded size, in the folder of their model.

folder/MODEL/00000007.jsonl    one worker appends to it, the next one continues it
folder/MODEL/00000007.images/  the images of its lines, named by their SHA-256, if they are logged
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handlers.atomic import locked
from handlers.observation.slot import is_held, try_lock

VARIABLE = "SIGHTLINE_PREDICTIONS"  # the folder; without it a worker logs nothing
SUFFIX, IMAGES = ".jsonl", ".images"


class Segments:
    """The segments of one model, and the one of them that this process appends to.

    Args:
        largest: bytes of a segment with its images.
        count: of segments; the oldest ones are removed.
    """

    def __init__(self, folder: Path, largest: int, count: int) -> None:
        self._folder, self._largest, self._count = folder, largest, count
        self._path, self._handle = folder, -1
        self._length = self._size = 0  # of the file; with its images

    def append(self, line: bytes, sha256: str, image: bytes | bytearray | None) -> None:
        """Write a line and its image; raises OSError, and the file is as before."""
        # Without a link, the file was removed: nobody would read it.
        if self._handle < 0 or self._size >= self._largest or not os.fstat(self._handle).st_nlink:
            self._open_next()
        if image is not None:
            self._size += _write_image(images_of(self._path) / sha256, image)
        try:
            if os.write(self._handle, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._handle, self._length)
            raise
        self._length += len(line)
        self._size += len(line)

    def close(self) -> None:
        """Leave the segment to another worker."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def _open_next(self) -> None:
        """Open the newest segment with room that no other worker has, or a new one; remove the oldest ones."""
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder):
            paths = segments(self._folder)
            if any(self._open(path) for path in reversed(paths)):
                return
            # By number: the clock of a machine may be set back.
            number = int(paths[-1].stem) + 1 if paths else 1
            free = [path for path in paths if not is_held(path)]
            for path in free[: max(0, len(paths) + 1 - self._count)]:
                path.unlink()
                shutil.rmtree(images_of(path), ignore_errors=True)
            self._open(self._folder / f"{number:08d}{SUFFIX}")

    def _open(self, path: Path) -> bool:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        length = os.fstat(handle).st_size
        # Lock before counting: another worker renames the images of its segment meanwhile.
        if not try_lock(handle):
            os.close(handle)
            return False
        size = length + sum(image.stat().st_size for image in images_of(path).glob("*"))
        if size >= self._largest:
            os.close(handle)
            return False
        self._path, self._handle, self._length, self._size = path, handle, length, size
        if length and os.pread(handle, 1, length - 1) != b"\n":  # of a worker that was killed
            self._length += os.write(handle, b"\n")
        return True


def _write_image(path: Path, image: bytes | bytearray) -> int:
    """Write an image unless there is one of this name; return the bytes that were written."""
    if path.exists():
        return 0
    path.parent.mkdir(mode=0o700, exist_ok=True)
    part = path.with_suffix(".part")
    try:
        part.write_bytes(image)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return len(image)


def segments(folder: Path) -> list[Path]:
    """Return the segments of a model's folder, oldest first."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.stem.isdecimal())


def images_of(segment: Path) -> Path:
    """Return the folder of the images of a segment."""
    return segment.with_suffix(IMAGES)


def read(folder: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """Yield each row of a model's folder, oldest segment first, and the path that its image has if it was logged.

    A line that is cut or damaged is passed over, and a segment that a worker removes meanwhile ends.
    """
    for segment in segments(folder):
        try:
            with open(segment, encoding="utf-8", errors="replace") as file:
                for line in file:
                    try:
                        row = json.loads(line)
                        yield row, images_of(segment) / row["sha256"]
                    except (ValueError, KeyError, TypeError):
                        continue
        except FileNotFoundError:
            continue
