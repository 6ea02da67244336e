"""The lines of one push: the pusher sees them, and a log has them too."""

import contextlib
import datetime as dt
import io
import queue
import sys
import threading
from pathlib import Path
from typing import Self, TextIO

FOLDER = "logs"
LOGS, LARGEST = 20, 5_000_000  # the newest logs stay; bytes of the commands' output in each
WAITING, PATIENCE = 10_000, 5.0  # lines that the pusher has not read; seconds for them at the end


class Progress:
    """Writes lines to the pusher and into a new log in `folder`; for a pusher who has left, only into the log.

    A pusher who does not read holds up nothing: lines that do not fit into `WAITING` are only in the log.
    """

    def __init__(self, folder: Path, commit: str, output: TextIO | None = None) -> None:
        folder.mkdir(exist_ok=True)
        for path in sorted(folder.glob("*.log"))[: 1 - LOGS]:
            path.unlink(missing_ok=True)
        self.path = folder / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S.%f}-{commit[:12]}.log"
        self._file = self.path.open("w", encoding="utf-8")
        self._output: TextIO | io.StringIO = output or sys.stdout
        self._space = LARGEST
        self._waiting: queue.Queue[str | None] = queue.Queue(WAITING)
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=PATIENCE)
        self._sender.join(PATIENCE)
        self._file.close()

    def line(self, text: str) -> None:
        """Write a line of the push itself."""
        self._write(text)
        self._show(text)

    def output(self, text: str) -> None:
        """Write a line of a command; the log has no more of them than fit."""
        if self._space > 0:
            self._space -= len(text.encode()) + 1
            self._write(text if self._space > 0 else f"... more than {LARGEST} bytes of output: the rest is left out")
        self._show(text)

    def _write(self, text: str) -> None:
        self._file.write(text + "\n")
        self._file.flush()

    def _show(self, text: str) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(text)

    def _send(self) -> None:
        while (text := self._waiting.get()) is not None:
            try:
                print(text, file=self._output, flush=True)
            except BrokenPipeError:
                self._output = io.StringIO()
