"""A `.npy` file of known length that several processes fill, each row on its own.

Rows are written with `pwrite`, not through a memory map: on a full disk that is an error with a name, not a SIGBUS.
"""

import errno
import io
import math
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt


class RowFile:
    """An open `.npy` file of `rows` rows, each of `shape` and `dtype`."""

    def __init__(self, path: Path, rows: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.path, self.rows, self.shape, self.dtype = path, rows, shape, np.dtype(dtype)
        self.row_bytes = math.prod(shape) * self.dtype.itemsize
        self.header = _header(rows, shape, self.dtype)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def allocate(self) -> None:
        """Write the header and reserve the whole length, so that a full disk is met now and not after an hour."""
        os.pwrite(self._file, self.header, 0)
        length = len(self.header) + self.rows * self.row_bytes
        try:
            if length > len(self.header):
                os.posix_fallocate(self._file, 0, length)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot reserve
                raise
        os.ftruncate(self._file, length)

    def write(self, row: int, values: npt.NDArray[Any]) -> None:
        """Put one row of the file's shape and dtype in its place."""
        if values.shape != self.shape or values.dtype != self.dtype:
            raise ValueError(f"a row is {values.dtype}{values.shape}, {self.path.name} holds {self.dtype}{self.shape}")
        view, position = (
            memoryview(np.ascontiguousarray(values).data).cast("B"),
            len(self.header) + row * self.row_bytes,
        )
        while view:
            written = os.pwrite(self._file, view, position)
            view, position = view[written:], position + written

    def move(self, source: int, target: int) -> None:
        """Copy row `source` over row `target`."""
        data = os.pread(self._file, self.row_bytes, len(self.header) + source * self.row_bytes)
        self.write(target, np.frombuffer(data, self.dtype).reshape(self.shape))

    def shorten(self, rows: int) -> None:
        """Keep the first `rows` rows; numpy's header leaves room for a number of rows of any length."""
        header = _header(rows, self.shape, self.dtype)
        if len(header) != len(self.header):
            raise RuntimeError(f"numpy's header of {self.path.name} changed its length")
        os.pwrite(self._file, header, 0)
        os.ftruncate(self._file, len(header) + rows * self.row_bytes)
        self.rows, self.header = rows, header

    def sync(self) -> None:
        """Wait until the file is on the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()


def _header(rows: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    buffer = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, *shape)}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()
