"""Faults of work that is repeated: each is logged once, until the work has succeeded or fails otherwise."""

import contextlib
import logging
from collections.abc import Iterator

from serving.errors import ServingError


class Faults:
    """The last fault of some repeated work; `text` is logged with it in the place of "%s"."""

    def __init__(self, logger: logging.Logger, text: str) -> None:
        self._logger, self._text = logger, text
        self._last = ""

    @contextlib.contextmanager
    def logged(self) -> Iterator[None]:
        """Log an error of the block instead of raising it: a thread that ended would repeat nothing any more."""
        try:
            yield
        except Exception as error:
            reason = reason_of(error)
            if reason != self._last:
                self._logger.warning(self._text, reason)
            self._last = reason
        else:
            self._last = ""


def reason_of(error: Exception) -> str:
    """Return the text of an error: with its type, where nobody wrote the text for a reader."""
    return str(error) if isinstance(error, ServingError) else repr(error)
