"""The lock that keeps two from changing at once what is live."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from serving import logs
from serving.deployment import DeployError

FILE = "deploy.lock"


class Held(DeployError):
    """Somebody else changes what is live."""


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold it while the block runs, without waiting for it.

    Raises:
        Held: somebody else does.
    """
    (root / logs.FOLDER).mkdir(exist_ok=True)
    try:
        with filelock.FileLock(root / logs.FOLDER / FILE, timeout=0):
            yield
    except filelock.Timeout as error:
        raise Held("another deployment runs here: wait for it") from error
