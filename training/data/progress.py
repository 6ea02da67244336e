"""A progress bar on a terminal, a line now and then elsewhere (in a log, a bar would be thousands of lines)."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


def plain_console() -> Console:
    """Return a console on standard error that shows names as they are, brackets and long lines included."""
    # A notebook is no terminal, though it sets FORCE_COLOR: a bar would be a line of escape codes for each step.
    terminal = sys.stderr.isatty()
    return Console(
        stderr=True,
        markup=False,
        highlight=False,
        soft_wrap=True,
        emoji=False,
        force_terminal=terminal,
        force_jupyter=False,
    )


@contextlib.contextmanager
def progress(console: Console, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Give a function that is called with the number of steps just done; `total` None: the end is not known."""
    if console.is_terminal:
        named = TextColumn("{task.description}", markup=False)
        columns = (named, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda steps: bar.advance(task, steps)
        return
    count, due = 0, 0.0

    def advance(steps: int) -> None:
        nonlocal count, due
        count += steps
        due = due or time.monotonic() + _SECONDS_BETWEEN_LINES  # what came before the first step does not count
        if time.monotonic() >= due:
            due = time.monotonic() + _SECONDS_BETWEEN_LINES
            console.print(f"{title}: {count:,}" + (f" of {total:,}" if total else ""))

    yield advance
