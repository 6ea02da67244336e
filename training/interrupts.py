"""Ctrl-C in a training of Lightning."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import lightning as L


class Interrupts(L.Callback):
    """Ends training after the batch of a Ctrl-C: within one, torch may lose or replace the exception.

    A second Ctrl-C ends it at once.
    """

    def __init__(self) -> None:
        self._asked = False

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """Raise KeyboardInterrupt in the block after Ctrl-C; Lightning would end the program with status 1."""
        before = signal.getsignal(signal.SIGINT)
        # In a thread, under Ray and in the background of a shell, others decide about interrupts.
        ours = threading.current_thread() is threading.main_thread() and before is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, self._ask)
        try:
            yield
            self._end()  # it may have come after the last batch
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            raise
        finally:
            if ours:
                signal.signal(signal.SIGINT, before)

    def _ask(self, *_: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def _end(self) -> None:
        if self._asked:
            raise KeyboardInterrupt

    def on_train_batch_end(self, *_: Any) -> None:
        self._end()

    def on_validation_batch_end(self, *_: Any) -> None:
        self._end()
