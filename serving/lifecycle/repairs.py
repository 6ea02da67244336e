"""The number of repairs that `make watch` has made in a directory, in logs/repairs.json."""

import contextlib
import json
import threading
from pathlib import Path

from handlers import atomic
from serving.host import logs

FILE = "repairs.json"
KINDS = ("front_end", "workers", "queue", "default", "version", "rollback")


class Repairs:
    """The counts of a directory, for the threads of one watcher."""

    _lock = threading.Lock()

    def __init__(self, root: Path) -> None:
        self._path = root / logs.FOLDER / FILE

    def counts(self) -> dict[str, int]:
        """Return the number of each kind, none if no file can be read."""
        try:
            return {str(kind): int(count) for kind, count in json.loads(self._path.read_text()).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    def add(self, kind: str) -> None:
        """Count one repair; a full disk costs the count and nothing else."""
        with self._lock, contextlib.suppress(OSError):
            counts = self.counts()
            atomic.write_json(self._path, {**counts, kind: counts.get(kind, 0) + 1})
