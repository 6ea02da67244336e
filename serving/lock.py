"""Locks that keep two from doing the same at once in one directory."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from serving import logs
from serving.errors import ServingError


class Held(ServingError):
    """Somebody else is at it."""


def alone(root: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the right to change what is live while the block runs, without waiting for it.

    Raises:
        Held: somebody else does.
    """
    return _held(root, "deploy.lock", "another deployment runs here: wait for it")


def starting(root: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the right to start a server while the block runs, without waiting for it.

    Raises:
        Held: somebody else does.
    """
    return _held(root, "start.lock", "a server is being started here already: wait for it (make status)")


@contextlib.contextmanager
def _held(root: Path, name: str, why: str) -> Iterator[None]:
    (root / logs.FOLDER).mkdir(exist_ok=True)
    try:
        with filelock.FileLock(root / logs.FOLDER / name, timeout=0):
            yield
    except filelock.Timeout as error:
        raise Held(why) from error
