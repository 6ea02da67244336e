"""The servers that a push changes: the one of a folder, or those of a fleet."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from serving import deploy
from serving.fleet import archives
from serving.fleet.deployment import FleetDeployment
from serving.host import lock
from serving.lifecycle.deployment import DeployError
from serving.store import model_store, prune
from serving.store.live import Live, LiveModel

PATIENCE, INTERVAL = 1800.0, 0.5  # seconds to wait for the end of another deployment, and between two looks

Log = Callable[[str], None]


class Target(Protocol):
    """Deploys versions from the store of a folder."""

    def live(self) -> dict[str, LiveModel]:
        """Return the live models."""

    def fetch(self, name: str, version: str) -> None:
        """Get the archive of a live version into the store, if it is elsewhere."""

    def deploy(self, name: str, version: str) -> None:
        """Make a version live, or change nothing and raise a ServingError."""

    def undo(self, name: str, version: str) -> bool:
        """Make the version before live again, or remove a model that is new; False if `version` is not live."""

    def prune(self, name: str, keep: int) -> None:
        """Remove old archives of a model, but neither the live one nor the one before it."""


class ServerTarget:
    """The server of a folder."""

    def __init__(self, root: Path, log: Log) -> None:
        self._root, self._log = root, log

    def live(self) -> dict[str, LiveModel]:
        return dict(Live.read(self._root).models)

    def fetch(self, name: str, version: str) -> None:
        pass  # its store is the one

    def deploy(self, name: str, version: str) -> None:
        self._when_free(lambda: deploy.deploy(name, version, root=self._root, log=self._log))

    def undo(self, name: str, version: str) -> bool:
        model = self.live().get(name)
        if model is None or model.version != version:  # `make watch ROLLBACK=1` was faster
            return False
        if (previous := model.previous) is not None:
            try:
                self._when_free(lambda: deploy.rollback(name, root=self._root, live=version, log=self._log))
            except DeployError:  # it is not READY any more: the server has been started again
                self._when_free(lambda: deploy.deploy(name, previous, root=self._root, verify=False, log=self._log))
        self._when_free(lambda: deploy.drop(name, version, root=self._root, is_last=True, log=self._log))
        return True

    def prune(self, name: str, keep: int) -> None:
        with contextlib.suppress(lock.Held):  # the next push removes them
            prune.prune(name, keep, root=self._root)

    def _when_free(self, work: Callable[[], object]) -> None:
        """Do `work` as soon as no other deployment runs."""
        deadline, is_waiting = time.monotonic() + PATIENCE, False
        while True:
            try:
                work()
                return
            except lock.Held as error:
                if time.monotonic() > deadline:
                    raise
                if not is_waiting:
                    self._log(f"  {error} ...")
                is_waiting = True
                time.sleep(INTERVAL)


class FleetTarget:
    """The servers of a fleet; the store in which archives are built is that of `root`."""

    def __init__(self, url: str, root: Path, log: Log) -> None:
        self._url, self._root, self._log = url, root, log
        self._fleet = FleetDeployment(url, log)

    def live(self) -> dict[str, LiveModel]:
        return dict(self._fleet.desired().models)

    def fetch(self, name: str, version: str) -> None:
        archives.fetch(name, version, self._url, self._root / model_store.FOLDER)

    def deploy(self, name: str, version: str) -> None:
        self._wait()
        self._fleet.deploy(name, version, self._root)

    def undo(self, name: str, version: str) -> bool:
        self._wait()
        model = self.live().get(name)
        if model is None or model.version != version:
            return False
        if model.previous is None:
            raise DeployError(f"a fleet removes no model, so {name} {version}, which is new, stays")
        self._fleet.rollback(name, undo=True)
        return True

    def _wait(self) -> None:
        """Wait for the end of another deployment, such as that of a killed push."""
        deadline = time.monotonic() + PATIENCE
        while self._fleet.desired().rollout is not None and time.monotonic() < deadline:
            time.sleep(INTERVAL)

    def prune(self, name: str, keep: int) -> None:
        prune.remove(name, keep, store=self._root / model_store.FOLDER, protected=protected(self, name))


def protected(target: Target, name: str) -> set[str]:
    """Return the versions of a model that must stay in the store: the live one, and the one before it."""
    model = target.live().get(name)
    return {version for version in (model.version, model.previous) if version} if model is not None else set()
