"""Locks against two processes doing the same work in one directory."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from serving.errors import ServingError
from serving.host import logs

RECORDING = 30.0  # seconds to wait for another process to change live.json


class Held(ServingError):
    """Another process holds the lock."""


def deploying(root: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the deployment lock while the block runs, without waiting for it.

    Raises:
        Held: another process does.
    """
    return _lock(root, "deploy.lock", "another deployment runs here: wait for it")


def starting(root: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the lock for starting a server while the block runs, without waiting for it.

    Raises:
        Held: another process does.
    """
    return _lock(root, "start.lock", "a server is being started here already: wait for it (make status)")


def recording(root: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the lock for changing model_store/live.json while the block runs; holders need it for milliseconds.

    Raises:
        Held: another process has had it for `RECORDING` seconds.
    """
    reason = f"another process has held logs/live.lock for {RECORDING:.0f} s: end it if it hangs, and try again"
    return _lock(root, "live.lock", reason, RECORDING)


def watching(root: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the lock of the watcher while the block runs, without waiting for it.

    Raises:
        Held: another watcher has it.
    """
    return _lock(root, "watch.lock", "another make watch runs here: end it first")


@contextlib.contextmanager
def training(root: Path, name: str, log: Callable[[str], object]) -> Iterator[None]:
    """Wait for the lock for training, archiving and serving the model `name`, and hold it while the block runs."""
    file, reason = f"up-{name}.lock", f"another make up of {name} runs here: waiting for its end"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_lock(root, file, reason))
        except Held:
            log(reason)
            stack.enter_context(_lock(root, file, reason, -1))
        yield


@contextlib.contextmanager
def _lock(root: Path, name: str, reason: str, timeout: float = 0) -> Iterator[None]:
    """Hold a lock, waiting `timeout` seconds for it: -1 for as long as it takes."""
    (root / logs.FOLDER).mkdir(exist_ok=True)
    try:
        with filelock.FileLock(root / logs.FOLDER / name, timeout=timeout):
            yield
    except filelock.Timeout as error:
        raise Held(reason) from error
