"""What makes the server of one folder serve what its fleet should: beside `make watch`, in two threads."""

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from serving import deploy
from serving.client import Client, ClientError, NotFound, Unreachable
from serving.errors import ServingError
from serving.fleet import archives
from serving.fleet.desired import Desired, Rollout
from serving.fleet.reports import BEAT, NodeReport, Reports
from serving.fleet.shared_document import SharedDocument
from serving.host import lock, state
from serving.host.repetition import repeated
from serving.host.state import ServerState
from serving.lifecycle.deployment import DeployError, DeployLimits
from serving.store import model_store
from serving.store.live import Live

LOOK = 0.5  # seconds between two looks at the desired state
PAUSE = 5.0  # seconds until what has failed is tried again
TROUBLE = 120.0  # seconds that a deployment waits for a node whose server is in trouble
FOLDER = "desired"

logger = logging.getLogger("serving.watch")


class Agent:
    """The node `name` of the fleet at `url`, whose server is in the folder `root`."""

    def __init__(
        self, root: Path, url: str, name: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self._root, self._url, self._name, self._clock = root.resolve(), url, name, clock
        self._shared, self._reports = SharedDocument(f"{url}/{FOLDER}"), Reports(url, clock=clock)
        self._others = Reports(url, clock=clock)
        self._count = time.time_ns()  # another one after a restart
        self._says = self._fault = ""
        self._due = 0.0  # time of the next attempt
        self._trouble: tuple[str, float] | None = None  # the deployment, and since when the server is in trouble

    def report(self) -> None:
        """Say which versions this node serves; a fleet that cannot be reached is said once."""
        self._count += 1
        report = NodeReport(
            self._name, socket.gethostname(), str(self._root), self._count, served(self._root), self._says
        )
        self._say_faults(lambda: self._reports.write(report))

    def look(self) -> None:
        """Take a turn if it is this node's, and correct what differs from the desired state."""
        self._say_faults(self._look)

    def _say_faults(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # a thread that ended would leave the node as it is
            if str(error) != self._fault:
                logger.error("the fleet is not followed at present: %s", error)
            self._fault = str(error)
        else:
            self._fault = ""

    def _look(self) -> None:
        desired = Desired.of_document(self._shared.read().document)
        rollout = desired.rollout
        if rollout is not None:
            self._leave_out_the_dead(rollout)
        if self._clock() < self._due:
            return
        is_turn = rollout is not None and rollout.turn == self._name
        if rollout is not None and is_turn:
            self._take_turn(rollout)
        for name, version in desired.versions_of(self._name).items():
            if version is not None and not (rollout is not None and is_turn and rollout.name == name):
                self._correct(name, version)

    def _take_turn(self, rollout: Rollout) -> None:
        """Make the version live, or the one before again; without a version before, the model goes."""
        server, version = state.running(self._root), rollout.version_of(self._name)
        is_back = rollout.failure is not None
        try:
            if version is not None:
                self._serve(rollout.name, version, DeployLimits(**dict[str, Any](rollout.limits)))
            if is_back:
                deploy.drop(rollout.name, rollout.version, root=self._root)
            if version is not None and served(self._root).get(rollout.name) != version:
                raise Unreachable(f"{rollout.name} {version} does not answer yet")
        except (ServingError, OSError) as error:
            self._says, self._due = str(error), self._clock() + PAUSE
            logger.error("%s", error)
            if is_back or isinstance(error, ClientError | lock.Held) or not self._is_well(server):
                self._wait(rollout)
            else:  # the version is at fault
                reason = f"{self._name}: {error}"
                self._update(lambda now: now.with_failure(rollout.id, reason, node=self._name))
            return
        self._says = ""
        self._update(lambda now: now.with_turn_taken(rollout.id, self._name, back=is_back))

    def _correct(self, name: str, version: str) -> None:
        """Make the fleet's version live where another one is, as after this node has been away."""
        try:
            self._serve(name, version, DeployLimits())
            self._says = ""
        except (ServingError, OSError) as error:
            if str(error) != self._says:
                logger.error("the fleet wants %s %s here: %s", name, version, error)
            self._says, self._due = str(error), self._clock() + PAUSE

    def _is_well(self, before: ServerState | None) -> bool:
        """Return whether the same server runs as before, and a model of it answers."""
        now = state.running(self._root)
        same = before is not None and now is not None and (now.pid, now.created) == (before.pid, before.created)
        return same and bool(served(self._root))

    def _serve(self, name: str, version: str, limits: DeployLimits) -> None:
        """Make a version live, in one step if it is kept for a rollback; nothing if it is live."""
        live = Live.read(self._root).models.get(name)
        if live is not None and live.version == version:
            return
        logger.warning("the fleet wants %s %s here: deploying it", name, version)
        if live is not None and live.previous == version:
            with contextlib.suppress(DeployError):  # it is not READY: it is loaded again
                deploy.rollback(name, root=self._root, live=live.version)
                return
        archives.fetch(name, version, self._url, self._root / model_store.FOLDER)
        deploy.deploy(
            name, version, root=self._root, limits=limits, verify=False, log=lambda line: logger.info("%s", line)
        )

    def _wait(self, rollout: Rollout) -> None:
        """Try the turn again later, since the server is in trouble; after `TROUBLE` the fleet leaves this node out."""
        if self._trouble is None or self._trouble[0] != rollout.id:
            self._trouble = rollout.id, self._clock()
        if self._clock() - self._trouble[1] > TROUBLE:
            self._update(lambda now: now.without(rollout.id, self._name))

    def _leave_out_the_dead(self, rollout: Rollout) -> None:
        self._others.read()
        for node in self._others.dead() - {self._name}:
            if node in rollout.nodes:
                self._update(lambda now, node=node: now.without(rollout.id, node))  # type: ignore[misc]

    def _update(self, change: Callable[[Desired], Desired]) -> None:
        self._shared.update(lambda document: change(Desired.of_document(document)).document())


def served(root: Path) -> dict[str, str]:
    """Return the default version of each model that answers on the server of a folder."""
    server = state.running(root)
    if server is None:
        return {}
    versions = {}
    with contextlib.suppress(ClientError), Client.of_state(server, deadline=BEAT) as client:
        for name in client.models():
            with contextlib.suppress(NotFound):
                status = client.describe(name)
                if any(worker.status == "READY" for worker in status.workers):
                    versions[name] = status.version
    return versions


@contextlib.contextmanager
def beside(root: Path, url: str | None, name: str | None = None) -> Iterator[None]:
    """Have the server of a folder follow the fleet at `url`, if there is one, until the block ends."""
    if url is None:
        yield
        return
    agent = Agent(root, url, name or f"{socket.gethostname()}-{root.resolve().name}")
    with repeated(agent.report, BEAT, "report"), repeated(agent.look, LOOK, "fleet"):
        yield
