"""The agent of a node, in two threads beside `make watch`: it has the node's server serve the fleet's versions."""

import contextlib
import dataclasses
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from handlers.naming import NAME
from serving import deploy
from serving.client import Client, ClientError, NotFound, Unreachable
from serving.errors import ServingError
from serving.fleet import archives
from serving.fleet.desired import FleetError, Rollout
from serving.fleet.reports import REPORT_INTERVAL, NodeReport, Reports
from serving.fleet.shared_document import AddressError
from serving.fleet.state import FleetState, exists
from serving.host import lock, state
from serving.host.faults import Faults, reason_of
from serving.host.repetition import repeated
from serving.host.state import ServerState
from serving.lifecycle.backoff import Backoff
from serving.lifecycle.deployment import DeployError, DeployLimits
from serving.store import model_store, signature
from serving.store.live import Live

LOOK = 0.5  # seconds between two looks at the desired state
PATIENCE = 10.0  # seconds for an answer of the server in a turn
PAUSE, LONGEST_PAUSE = 5.0, 300.0  # seconds until what has failed is tried again
TROUBLE_LIMIT = 120.0  # seconds that a deployment waits for a node whose server is in trouble
MOST_DEATHS = 2  # of the server in one turn; then the version is at fault

logger = logging.getLogger("serving.watch")


@dataclasses.dataclass(slots=True)
class Turn:
    """The attempts of one turn: of which deployment and direction, since when, and how often the server died in it."""

    key: tuple[str, bool]
    start_time: float
    deaths: int = 0


class Agent:
    """The node `name` of the fleet at `url`, whose server is in the folder `root`.

    Raises:
        AddressError: the address cannot be used.
        FleetError: the name cannot be one, or another server has it.
    """

    def __init__(self, root: Path, url: str, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._url, self._name, self._clock = root.resolve(), url, name, clock
        self._state, self._reports = FleetState(url), Reports(url, clock=clock)
        self._count = time.time_ns()  # another one after a restart
        self._reasons: dict[str, str] = {}  # of each model why it is not served as it should be
        self._step = ""  # of a deployment here
        self._pauses: dict[str, Backoff] = {}  # of each model
        self._report_faults, self._look_faults = (
            Faults(logger, "the fleet is not followed at present: %s") for _ in range(2)
        )
        self._due = 0.0  # time of the next attempt of a turn
        self._turn: Turn | None = None
        self._check_name()

    def _check_name(self) -> None:
        if not NAME.fullmatch(self._name):
            raise FleetError(f"{self._name!r} cannot be the name of a node: choose one with --node, such as node-1")
        report = self._reports.read().get(self._name)
        if report is not None and (report.host, report.folder) != (socket.gethostname(), str(self._root)):
            raise FleetError(
                f"{report.host}:{report.folder} is the node {self._name}: choose another name with --node, or forget "
                f"that one (python -m serving.fleet.status {self._url} --forget {self._name})"
            )

    @property
    def name(self) -> str:
        """Return its name in the fleet."""
        return self._name

    @property
    def reason(self) -> str:
        """Return why this node does not serve the fleet's versions, "" if it does."""
        return "; ".join(self._reasons.values())

    @property
    def is_in_turn(self) -> bool:
        """Return whether it deploys a version or goes back at present."""
        return self._turn is not None

    def report(self) -> None:
        """Write the versions that this node serves; a fault is logged once."""
        with self._report_faults.logged():
            self._count += 1
            place = socket.gethostname(), str(self._root)
            reason = self._server_reason() or self.reason
            self._reports.write(NodeReport(self._name, *place, self._count, served(self._root), reason, self._step))

    def _server_reason(self) -> str:
        """Return why no server runs here, "" if one does."""
        if state.running(self._root) is not None:
            return ""
        if ServerState.is_to_stay_stopped(self._root):
            return "its server was stopped: make serve there starts it"
        return "its server is being started"

    def look(self) -> None:
        """Take a turn if it is this node's, and correct what differs from the desired state; a fault is logged once."""
        with self._look_faults.logged():
            self._look()

    def _look(self) -> None:
        server = ServerState.read(self._root)
        if server is not None and (server.busy == os.getpid() or server.is_starting_or_stopping):
            return  # the watcher beside this agent, or another process, is starting it
        desired = self._state.read()
        rollout = desired.rollout
        if rollout is not None:
            self._reports.read()
            self._state.leave_out(self._reports.dead() - {self._name})
        is_turn = rollout is not None and rollout.turn == self._name
        if rollout is not None and is_turn:
            self._take_turn(rollout)
        else:
            self._turn = None
        versions = desired.versions_of(self._name)
        self._reasons = {name: reason for name, reason in self._reasons.items() if name in versions}
        for name, version in versions.items():
            if version is not None and not (rollout is not None and is_turn and rollout.name == name):
                self._correct(name, version)
        for name, version in desired.withdrawn.items():
            deploy.drop(name, version, root=self._root, is_last=True)

    def _take_turn(self, rollout: Rollout) -> None:
        """Make the version live, or the one before again; without a version before, the model goes."""
        key = rollout.id, rollout.failure is not None
        if self._turn is None or self._turn.key != key:
            self._turn, self._due = Turn(key, self._clock()), 0.0
        if self._clock() < self._due:
            return
        server = state.running(self._root)
        try:
            self._try_turn(rollout)
        except Exception as error:  # of any kind: the fleet waits for this node
            logger.error("%s", reason_of(error))
            self._reasons[rollout.name], self._due = reason_of(error), self._clock() + PAUSE
            died = not self._is_same(server)
            self._turn.deaths += died
            self._end_turn_after(error, rollout, self._turn, died=died)
            return
        is_back = rollout.failure is not None
        self._reasons.pop(rollout.name, None)
        self._state.update(lambda now: now.with_turn_taken(rollout.id, self._name, back=is_back))

    def _try_turn(self, rollout: Rollout) -> None:
        version = rollout.version_of(self._name)
        if version is not None:
            limits = DeployLimits(**dict[str, Any](rollout.limits))
            self._serve(rollout.name, version, limits, is_back=rollout.failure is not None)
        if rollout.failure is not None and version != rollout.version:
            deploy.drop(rollout.name, rollout.version, root=self._root, is_last=version is None)
        answering = served(self._root, PATIENCE).get(rollout.name)
        if version is not None and answering != version:
            raise Unreachable(f"{rollout.name} {version} does not answer yet")
        if version is None and answering == rollout.version:
            raise DeployError(f"{rollout.name} {rollout.version} is still the only version here")

    def _end_turn_after(self, error: Exception, rollout: Rollout, turn: Turn, *, died: bool) -> None:
        """Have the turn tried again if the server or the address is in trouble; else the version is at fault."""
        is_trouble = not isinstance(error, ServingError) or isinstance(error, ClientError | lock.Held | AddressError)
        if died or not served(self._root, PATIENCE):
            is_trouble = turn.deaths < MOST_DEATHS
        if rollout.failure is None and not is_trouble:
            reason = f"{self._name}: {error}"
            self._state.update(lambda now: now.with_failure(rollout.id, reason, node=self._name))
        elif self._clock() - turn.start_time > TROUBLE_LIMIT or ServerState.is_to_stay_stopped(self._root):
            self._state.leave_out({self._name})

    def _is_same(self, before: ServerState | None) -> bool:
        """Return whether the same server runs as before, if one ran."""
        now = state.running(self._root)
        return before is None or (now is not None and (now.pid, now.created) == (before.pid, before.created))

    def _correct(self, name: str, version: str) -> None:
        """Make the fleet's version live where another one is, as after this node has been away."""
        live = Live.read(self._root).models.get(name)
        if live is not None and live.version == version:
            self._reasons.pop(name, None)
            return
        pauses = self._pauses.setdefault(name, Backoff(PAUSE, LONGEST_PAUSE, self._clock))
        if not pauses.is_due():
            return
        try:
            self._serve(name, version, DeployLimits())
            pauses.reset()
        except (ServingError, OSError) as error:
            logger.error("the fleet wants %s %s here: %s", name, version, reason_of(error))
            self._reasons[name] = reason_of(error)
            pauses.fail()

    def _serve(self, name: str, version: str, limits: DeployLimits, *, is_back: bool = False) -> None:
        """Make a version live, in one step if it is kept for a rollback; if it is live, see that it is the fleet's.

        On the way back no signature is asked for: the version was live before.
        """
        archives.fetch(name, version, self._url, self._root / model_store.FOLDER)
        live = Live.read(self._root).models.get(name)
        if live is not None and live.version == version:
            return
        if live is not None and live.previous == version:
            if not is_back:  # it may be older than the key
                signature.check(model_store.find(name, version, self._root / model_store.FOLDER), self._root)
            with contextlib.suppress(DeployError):  # it is not READY: it is loaded again
                deploy.rollback(name, root=self._root, live=live.version)
                logger.warning("%s %s is live again, as the fleet wants", name, version)
                return
        self._start_server()
        live = Live.read(self._root).models.get(name)
        if live is not None and live.version == version:
            return
        logger.warning("the fleet wants %s %s here: deploying it", name, version)
        try:
            deploy.deploy(name, version, root=self._root, limits=limits, verify=False, log=self._log_step)
        finally:
            self._step = ""

    def _log_step(self, line: str) -> None:
        logger.info("%s", line)
        if not line.startswith(" "):
            self._step = line

    def _start_server(self) -> None:
        """Start the server of a folder that has none, as `make serve` does; one that was stopped stays so.

        Raises:
            DeployError: it does not start, or was stopped.
        """
        if state.running(self._root) is not None:
            return
        if ServerState.is_to_stay_stopped(self._root):
            raise DeployError("the server here was stopped (make stop): start it again (make serve)")
        logger.warning("no server runs here: starting one")
        # In another process: the watcher in this one repairs what its own process does not start.
        command = [sys.executable, "-m", "serving.server", "start"]
        ended = subprocess.run(command, cwd=self._root, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            raise DeployError(ended.stderr.strip().removeprefix("error: ") or "the server does not start")


def served(root: Path, deadline: float = REPORT_INTERVAL) -> dict[str, str]:
    """Return the default version of each model that answers on a folder's server; `deadline` is of each question."""
    server = state.running(root)
    if server is None:
        return {}
    versions = {}
    with contextlib.suppress(ClientError), Client.of_state(server, deadline=deadline) as client:
        for name in client.models():
            with contextlib.suppress(NotFound):
                status = client.describe(name)
                if any(worker.status == "READY" for worker in status.workers):
                    versions[name] = status.version
    return versions


@contextlib.contextmanager
def beside(root: Path, url: str | None, name: str | None = None) -> Iterator[None]:
    """Have the server of a folder follow the fleet at `url`, if there is one, until the block ends.

    Raises:
        AddressError: the address cannot be used.
        FleetError: the name cannot be one, or another server has it.
        SignatureError: signatures are asked for, and cannot be checked.
    """
    if url is None:
        yield
        return
    signature.check_package(root)
    is_new = not exists(url)
    agent = Agent(root, url, name or f"{socket.gethostname()}-{root.resolve().name}")
    logger.info("following the fleet at %s as its node %s", url, agent.name)
    if is_new:
        logger.info("no server followed that address before: a new fleet begins")
    with repeated(agent.report, REPORT_INTERVAL, "report"), repeated(agent.look, LOOK, "fleet"):
        try:
            yield
        finally:
            if agent.is_in_turn:
                logger.info("waiting for the end of this node's turn ...")
