"""Write files atomically: a reader gets the old file or the new one, whole, however a process ends."""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from handlers import process

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # rename(2)
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # FAT, and shares of other systems, have none


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, of the same name in a folder beside it; the file takes its place where the block ends.

    The name stays, since writers go by its suffix, and TorchScript names the records inside after it. If the block
    raises, the old file stays. Leftovers of killed writers are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}-*-*"):
        if _is_left(*left.name.rsplit("-", 2)[1].partition(".")[::2]):
            shutil.rmtree(left, ignore_errors=True)
    writer = f"{os.getpid()}.{process.created(os.getpid())}"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-{writer}-") as folder:
        part = Path(folder) / path.name
        yield part
        os.replace(part, path)


def _is_left(pid: str, started: str) -> bool:
    """Return whether the writer of that process id and start, which older releases did not write down, has ended."""
    if not started.isdecimal():
        return pid.isdecimal() and not Path(f"/proc/{pid}").exists()
    return pid.isdecimal() and not process.runs(int(pid), int(started))


def write_text(path: Path, text: str) -> None:
    """Write a text file and create its folder if necessary; a power failure leaves no partial file."""
    with replacing(path) as part, open(part, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, and create its folder if necessary."""
    with replacing(path) as part:
        part.touch(0o600)
        part.write_bytes(data)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document for people and programs; ValueError where a number is not finite."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def replace_folder(new: Path, old: Path) -> None:
    """Put the folder `new` in the place of `old`, in one step where the file system can swap names."""
    aside = old.with_name(f"{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _exchange(new, old)
    except OSError:  # there is no `old`, or such a file system: two steps
        if old.exists():
            old.rename(aside)
        new.rename(old)
    else:
        new.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def name_once(part: Path, path: Path) -> None:
    """Give a whole file its name, in one step, unless a file has it already.

    Raises:
        FileExistsError: one has.
    """
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with locked(path.parent):
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
            os.rename(part, path)


def _exchange(one: Path, other: Path) -> None:
    """Swap the names of two files or folders, in one step; OSError if the system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, "this C library cannot swap names")
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), "names cannot be swapped here", str(one), None, str(other))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock while the block runs; it ends with its process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
