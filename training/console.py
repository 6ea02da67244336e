"""What commands of training print: tables of scores, and the line after an interrupt."""

import errno
import sys

from rich.console import Console

INTERRUPTED = "interrupted: the same command continues"
FULL = (errno.ENOSPC, errno.EDQUOT)
WIDEST = 1_000  # columns; a pipe or a file would be taken for a terminal of 80


def message_of(error: Exception) -> str:
    """Return an error's message; for a full disk it says what helps."""
    if getattr(error, "errno", None) in FULL or "disk is full" in str(error):  # the words of SQLite
        return f"the disk is full ({error}): free some space, and the same command continues"
    return str(error)


def table_console() -> Console:
    """Return a console on standard output that shows names as they are, and wraps lines only on a terminal."""
    return Console(soft_wrap=True, markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDEST)
