"""Roll a version back if an alarm of it fires soon after its deployment: `make watch ROLLBACK=1`."""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil

from serving import deploy
from serving.client import Client
from serving.errors import ServingError
from serving.host import lock, ports, state
from serving.host.repetition import repeated
from serving.host.state import ServerState
from serving.lifecycle import launch
from serving.lifecycle.golden_check import GoldenCheck
from serving.lifecycle.repairs import Repairs
from serving.rollout import alarms, labels
from serving.rollout.alarms import Figures
from serving.store import model_store
from serving.store.live import Live, LiveModel
from serving.store.model_store import Archive

MINUTES = 30.0  # after a deployment
INTERVAL, SCRAPE = 10.0, 10.0  # seconds between two looks; for the exporter's answer
LOOKS = 3  # in a row with drift

logger = logging.getLogger("serving.watch")


class Guard:
    """Looks after the versions that were deployed in the last `minutes`."""

    def __init__(self, root: Path, minutes: float = MINUTES, *, clock: Callable[[], float] = time.time) -> None:
        self._root, self._seconds, self._clock = root.resolve(), 60 * minutes, clock
        self._repairs = Repairs(self._root)
        self._first: dict[tuple[str, str, float], Figures] = {}  # at the first look after a deployment
        self._drifting: Counter[str] = Counter()  # looks in a row
        self._refused: set[tuple[str, float]] = set()  # models and times of deployments that stay

    def look(self) -> None:
        """Look once, and roll back."""
        server = state.running(self._root)
        if server is None:
            return
        for name, model in Live.read(self._root).models.items():
            previous = self._previous(name, model)
            if previous is not None and (alarm := self._alarm(server, name, model, previous)):
                self._roll_back(server, name, model, previous, alarm)

    def _previous(self, name: str, model: LiveModel) -> str | None:
        """Return the version to go back to, None after a rollback or long after the deployment."""
        deployed = model.deployed
        if deployed is None or self._clock() - deployed > self._seconds or (name, deployed) in self._refused:
            return None
        return model.previous

    def _alarm(self, server: ServerState, name: str, model: LiveModel, previous: str) -> str:
        address = f"http://127.0.0.1:{ports.exporter_port(server.metrics)}/metrics"
        try:
            text = httpx.get(address, timeout=SCRAPE, trust_env=False).text
        except httpx.HTTPError:
            return ""
        now, old = alarms.figures_of(text, name, model.version), alarms.figures_of(text, name, previous)
        # A version that was live before has earlier counts.
        new = now.since(self._first.setdefault((name, model.version, model.deployed or 0.0), now))
        rows = labels.read(launch.predictions(self._root) / name)
        return (
            alarms.errors(new, old)
            or alarms.latency(new, old)
            or alarms.accuracy(rows, model.version, previous, model.deployed or 0.0)
            or alarms.shift(new, old)
            or self._drift(name, new, old)
        )

    def _drift(self, name: str, new: Figures, old: Figures) -> str:
        """Return the alarm of drift that only the new version sees for a while, empty without one."""
        self._drifting[name] = self._drifting[name] + 1 if alarms.is_own_drift(new, old) else 0
        return "it sees drift that the previous version did not see" if self._drifting[name] >= LOOKS else ""

    def _roll_back(self, server: ServerState, name: str, model: LiveModel, previous: str, alarm: str) -> None:
        archive = Archive(name, previous, model_store.path_of(name, previous, self._root / model_store.FOLDER))
        try:
            with Client.of_state(server) as client:
                check(client, archive)
            deploy.rollback(name, root=self._root, live=model.version, log=logger.info)
        except lock.Held:
            return  # a deployment may replace it anyway
        except (ServingError, OSError) as error:
            logger.error("%s %s stays live (%s): no rollback to %s: %s", name, model.version, alarm, previous, error)
            self._refused.add((name, model.deployed or 0.0))
            return
        self._repairs.add("rollback")
        logger.warning("%s is rolled back from %s to %s: %s", name, model.version, previous, alarm)


def check(client: Client, archive: Archive) -> None:
    """Check that a version answers a golden image as it was exported.

    Raises:
        WrongAnswer, ClientError, ArchiveError: it does not.
    """
    description = client.description(archive.name, archive.version)
    golden = GoldenCheck(archive.golden(), archive.spec()["classes"], description["precision"])
    if golden.golden:
        golden.ask(client, archive.name, archive.version)


@contextlib.contextmanager
def beside(root: Path, minutes: float | None) -> Iterator[None]:
    """Have a guard look until the block ends; None: none."""
    if minutes is None:
        yield
        return
    guard = Guard(root, minutes)

    def look() -> None:
        try:
            guard.look()
        except (ServingError, OSError, psutil.Error, ValueError) as error:  # keep looking
            logger.error("no alarm is looked for at present: %s", error)

    with repeated(look, INTERVAL, "guard"):
        yield
