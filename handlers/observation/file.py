"""A file of numbers of one worker: a line of JSON that describes it, then doubles, written in place.

Its room on the disk is reserved when it is created, so that a full disk stops no later write. `os.pwrite` leaves the
numbers with the system: a worker that is killed afterwards has lost nothing.
"""

import json
import os
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BYTES = 8  # of a double


class NumberFile:
    """An open file.

    Args:
        path: a file with the same description is continued, any other is replaced.
        about: the description.
        count: of its numbers.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], count: int) -> None:
        line = json.dumps(about).encode()
        header = line + b" " * (-(len(line) + 1) % BYTES) + b"\n"
        self._start, self._count = len(header), count
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        same = os.pread(self._handle, len(header), 0) == header
        self.continued = same and os.fstat(self._handle).st_size == len(header) + BYTES * count
        if not self.continued:
            os.truncate(self._handle, 0)
            os.posix_fallocate(self._handle, 0, len(header) + BYTES * count)
            os.pwrite(self._handle, header, 0)

    def numbers(self) -> "array[float]":
        """Return all numbers."""
        return array("d", os.pread(self._handle, BYTES * self._count, self._start))

    def write(self, numbers: "array[float]", place: int = 0) -> None:
        """Write numbers from the place on; raises OSError if that fails."""
        os.pwrite(self._handle, numbers, self._start + BYTES * place)

    def close(self) -> None:
        """Close it."""
        os.close(self._handle)


def read(path: Path) -> tuple[dict[str, Any], "array[float]"]:
    """Return the description and the numbers of a file that a worker may be writing.

    Raises:
        OSError: it does not exist or cannot be read.
        ValueError: it is not complete.
    """
    line, newline, content = path.read_bytes().partition(b"\n")
    if not newline or len(content) % BYTES:
        raise ValueError(f"{path} is not complete")
    return json.loads(line), array("d", content)
