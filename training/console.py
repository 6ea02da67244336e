"""What commands of training print: tables of scores, and the line after an interrupt."""

import sys

from rich.console import Console

INTERRUPTED = "interrupted: the same command continues"
WIDEST = 1_000  # columns; a pipe or a file would be taken for a terminal of 80


def table_console() -> Console:
    """Return a console on standard output that shows names as they are, and wraps lines only on a terminal."""
    return Console(soft_wrap=True, markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDEST)
