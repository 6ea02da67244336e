"""Reap the processes whose parents have ended, as process 1 of a container has to."""

import ctypes
import os

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, which process 1 is already.

    Raises:
        OSError: the system refuses that.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "this process cannot adopt orphans (prctl PR_SET_CHILD_SUBREAPER)")


def wait(*pids: int) -> tuple[int, int]:
    """Reap every child that ends until one of `pids` does; return it and its exit status, below 0 for a signal.

    Raises:
        ChildProcessError: there is no child left to wait for.
    """
    while True:
        ended, status = os.wait()
        if ended in pids:
            return ended, os.waitstatus_to_exitcode(status)
