"""A command in the checkout of a commit: its output line by line, and its end with all that it has started."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from handlers import process
from pipeline.receiving.repository import environment

LIMIT = 7200.0  # seconds of one command
DELAY = 2.0  # seconds that its output may take after its end: a server that it has started holds the pipe


class CommandError(Exception):
    """A command failed."""


def run(
    command: Sequence[str], folder: Path, output: Callable[[str], None], started: Callable[[int, int], None]
) -> None:
    """Run a command in `folder`; `output` gets its lines, and `started` its process id and start (`handlers.process`).

    Raises:
        CommandError: it cannot be run, it fails, or it takes longer than `LIMIT`; the message has its last line.
    """
    try:
        child = subprocess.Popen(
            command, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise CommandError(f"{command[0]} cannot be run: {error.strerror}") from error
    last = [""]
    reader = threading.Thread(target=_read, args=(child, output, last), daemon=True)
    is_late = threading.Event()

    def stop() -> None:
        is_late.set()
        end(child.pid)

    timer = threading.Timer(LIMIT, stop)
    timer.daemon = True
    reader.start()
    timer.start()
    try:
        started(child.pid, process.created(child.pid))
        status = child.wait()
        reader.join(DELAY)
    except BaseException:
        end(child.pid)
        child.wait()
        reader.join(DELAY)
        raise
    finally:
        timer.cancel()
        end(child.pid)  # the rest of its group
    if is_late.is_set():
        raise CommandError(f"it takes longer than {LIMIT:,.0f} s")
    if status:
        raise CommandError(last[0] or f"exit status {status}")


def end(group: int) -> None:
    """End a command and the processes that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _read(child: "subprocess.Popen[str]", output: Callable[[str], None], last: list[str]) -> None:
    assert child.stdout is not None
    with contextlib.suppress(ValueError), child.stdout:  # the push has ended, and with it the log
        for line in child.stdout:
            text = line.rstrip()
            if text and not text.startswith("make:"):  # which names no cause
                last[0] = text.strip()
            output(text)
