"""Keep workers that load on half of the cores, so that those that answer meanwhile have the others to themselves.

Its priority could not be raised again by an ordinary user; where it may run can.
"""

import contextlib
import os
from collections.abc import Callable, Iterator

import psutil

from serving.host.state import ServerState


@contextlib.contextmanager
def loading(known: ServerState | None) -> Iterator[Callable[[], None]]:
    """Give a function that keeps what the server has started since on its last cores; all are theirs afterwards.

    Call it again and again while workers load: a process is seen when it is there.
    """
    front = known.process() if known is not None else None
    cores = sorted(os.sched_getaffinity(0))
    if front is None or len(cores) < 2:
        yield lambda: None
        return
    before = _children(front)
    kept: set[int] = set()

    def keep() -> None:
        for pid in _children(front) - before - kept:
            _run_on(pid, cores[-(len(cores) // 2) :])
            kept.add(pid)

    try:
        yield keep
    finally:
        for pid in kept:
            _run_on(pid, cores)


def _children(front: psutil.Process) -> set[int]:
    try:
        return {each.pid for each in front.children()}
    except psutil.Error:
        return set()


def _run_on(pid: int, cores: list[int]) -> None:
    """Move a process, each of its threads, unless it has ended."""
    with contextlib.suppress(psutil.Error, OSError):
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, cores)
