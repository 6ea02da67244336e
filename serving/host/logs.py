"""The log files of the server and its workers, and their last lines after a failure."""

import dataclasses
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

FOLDER = Path("logs")
CONFIG = Path(__file__).parents[1] / "log4j2.xml"
CONSOLE = "console.log"
FILES = (CONSOLE, "ts_log.log", "model_log.log")
_LINE = re.compile(r"\S+ +[A-Z]+ +W-\d+-(?P<model>\S+)-std(?:out|err) - (?P<text>.*)")
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b.*")
_CURE = "its handler needs a package: install it with .venv/bin/uv pip install, or take the archive out of the store"
_DELAY = 5.0  # seconds within which TorchServe, on a busy machine, has logged what a dead worker printed
_PAUSE = 0.1
# TorchServe's worker ends with this exception after any failure of the handler.
_TORCHSERVE_EXCEPTION = re.compile(r"RuntimeError: \d{3} - |ModuleNotFoundError: No module named 'ts\.torch_handler")


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """A position in the logs: later lines belong to the work that began then."""

    folder: Path
    sizes: Mapping[str, int]

    @classmethod
    def now(cls, root: Path) -> Self:
        """Return the present end of each log of `root`."""
        folder = root / FOLDER
        return cls(folder, {name: _size(folder / name) for name in FILES})

    def lines(self, name: str) -> list[str]:
        """Return the lines written to one log since."""
        path = self.folder / name
        if not path.exists():
            return []
        with open(path, "rb") as file:
            # Smaller than it was: the file was rolled over.
            file.seek(self.sizes[name] if self.sizes[name] <= _size(path) else 0)
            return file.read().decode(errors="replace").splitlines()

    def last(self, count: int = 25) -> str:
        """Return the last lines logged since: by workers, or by the front end if workers logged none."""
        for name in reversed(FILES):
            if lines := self.lines(name):
                return "\n".join([f"--- last lines of {FOLDER}/{name}", *lines[-count:]])
        return ""

    def raised(self, name: str, version: str) -> str:
        """Return the last exception that a worker of a version logged since, as one line, or "".

        TorchServe logs it after the worker has died: this waits for it, up to 5 seconds.
        For a package that the handler imports and that is not installed, it says how to install it.
        """
        deadline = time.monotonic() + _DELAY
        before, exception = "", self._exception(name, version)
        while (not exception or exception != before) and time.monotonic() < deadline:
            time.sleep(_PAUSE)
            before, exception = exception, self._exception(name, version)
        return f"{exception} ({_CURE})" if exception.startswith("ModuleNotFoundError: ") else exception

    def _exception(self, name: str, version: str) -> str:
        exception = ""
        for line in self.lines("model_log.log"):
            parts = _LINE.fullmatch(line)
            if parts is None or parts["model"] != f"{name}_{version}":
                continue
            if _EXCEPTION.fullmatch(parts["text"]) and not _TORCHSERVE_EXCEPTION.match(parts["text"]):
                exception = parts["text"]
        return exception


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
