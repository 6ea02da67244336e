"""A thread that loads versions while the watcher keeps watching."""

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from serving import server
from serving.errors import ServingError
from serving.host import lock
from serving.host.state import ServerState
from serving.lifecycle.readiness import Version
from serving.lifecycle.repairs import Repairs

logger = logging.getLogger("serving.watch")


class Loader:
    """Loads versions into the server of `root`, one after the other; `versions` are those under way."""

    def __init__(self, root: Path) -> None:
        self.root, self.repairs = root, Repairs(root)
        self.versions: frozenset[Version] = frozenset()
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(1, "loader")

    def load(self, server_state: ServerState, versions: Sequence[Version], ended: Callable[[], None]) -> None:
        """Begin to load versions into that server, and call `ended` when all have been tried."""
        self.versions = frozenset(versions)
        self._pool.submit(self._load, server_state, versions, ended)

    def close(self) -> None:
        """Cancel the load under way, and remove its version from the server."""
        self._ending.set()
        self._pool.shutdown()

    def _load(self, server_state: ServerState, versions: Sequence[Version], ended: Callable[[], None]) -> None:
        try:
            with contextlib.suppress(lock.Held):  # the next attempt comes after that deployment
                for version in versions:
                    self._try(server_state, version)
        finally:
            ended()
            self.versions = frozenset()

    def _try(self, server_state: ServerState, version: Version) -> None:
        try:
            server.add(server_state, self.root, version, ending=self._ending.is_set)
            logger.warning("%s %s is served again", *version)
            self.repairs.add("version")
        except lock.Held:
            raise
        except (ServingError, OSError, psutil.Error) as error:
            if not self._ending.is_set():
                logger.error("%s %s should be live and still does not load: %s", *version, error)
