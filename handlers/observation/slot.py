"""A worker's place in the folder of observations: its files, which the next worker continues after its end.

folder/MODEL/VERSION/0.lock       locked as long as a worker runs
folder/MODEL/VERSION/0.counters   see `handlers.observation.counters`
folder/MODEL/VERSION/0.recent     see `handlers.observation.recent`

So the counts of ended workers stay, and a version has as many files as it had workers at the same time.
"""

import dataclasses
import fcntl
import itertools
import os
import shutil
from pathlib import Path
from typing import Self

from handlers.atomic import locked

VARIABLE = "SIGHTLINE_OBSERVATIONS"  # the folder; without it a worker writes nothing
UNCOUNTED_HEADER = "x-sightline-uncounted"  # of a request that leaves no trace here, such as a golden image
KEPT_VERSIONS = 16  # of each model, besides those with a worker


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """Files of one worker, locked until its process ends.

    `stem` is their path without suffix; `used` says whether an earlier worker had them.
    """

    stem: Path
    used: bool
    lock: int

    @classmethod
    def take(cls, folder: Path, name: str, version: str) -> Self:
        """Return the first slot of a version that no other worker has; remove those of versions long past.

        Raises:
            OSError: the folder cannot be written.
        """
        own = folder / name / version
        own.mkdir(parents=True, exist_ok=True)
        os.utime(own)
        with locked(folder / name):
            _remove_past(folder / name)
            own.mkdir(exist_ok=True)
            for number in itertools.count():
                path = own / f"{number}.lock"
                used = path.exists()
                lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                if try_lock(lock):
                    return cls(path.with_suffix(""), used, lock)
                os.close(lock)
        raise AssertionError

    def release(self) -> None:
        """Leave it to another worker."""
        os.close(self.lock)


def files(folder: Path, suffix: str) -> list[Path]:
    """Return the files of all workers with a suffix such as ".counters", in order."""
    return sorted(folder.glob(f"*/*/*{suffix}"))


def _remove_past(folder: Path) -> None:
    """Remove the oldest versions that no worker has."""
    versions = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for version in versions[KEPT_VERSIONS:]:
        if not any(is_held(path) for path in version.glob("*.lock")):
            shutil.rmtree(version, ignore_errors=True)


def is_held(path: Path) -> bool:
    """Return whether a process has locked a file."""
    handle = os.open(path, os.O_RDWR)
    try:
        return not try_lock(handle)
    finally:
        os.close(handle)


def try_lock(handle: int) -> bool:
    """Lock a file that no other process has locked; return whether that succeeded."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
