"""Keep loading workers on half of the cores, so that answering workers have the other half.

Affinity rather than niceness: an unprivileged process cannot lower its nice value again.
"""

import contextlib
import os
from collections.abc import Callable, Iterator

import psutil

from serving.host.state import ServerState


@contextlib.contextmanager
def loading(known: ServerState | None) -> Iterator[Callable[[], None]]:
    """Yield a function that moves newly started workers to the last half of the cores; at the end they get all cores.

    Call it repeatedly while workers load: it sees only processes that exist.
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
        return {child.pid for child in front.children()}
    except psutil.Error:
        return set()


def _run_on(pid: int, cores: list[int]) -> None:
    """Move a process, each of its threads, unless it has ended."""
    with contextlib.suppress(psutil.Error, OSError):
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, cores)
