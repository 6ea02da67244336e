"""Keep loading workers on half of the cores, so that answering workers have the other half.

Affinity rather than niceness: an unprivileged process cannot lower its nice value again.
"""

import contextlib
import os
from collections.abc import Callable, Iterator

import psutil

from serving.host.state import ServerState


@contextlib.contextmanager
def loading(server: ServerState | None) -> Iterator[Callable[[], None]]:
    """Yield a function that moves newly started workers to the last half of the cores; at the end they get all cores.

    Call it repeatedly while workers load: it sees only processes that exist.
    """
    front = server.process() if server is not None else None
    cores = sorted(os.sched_getaffinity(0))
    if front is None or len(cores) < 2:
        yield lambda: None
        return
    before = _children(front)
    moved_pids: set[int] = set()

    def move_new_workers() -> None:
        for pid in _children(front) - before - moved_pids:
            _run_on(pid, cores[-(len(cores) // 2) :])
            moved_pids.add(pid)

    try:
        yield move_new_workers
    finally:
        for pid in moved_pids:
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
