"""The running gateway: Envoy, and the files from which it knows nodes, tokens, clients and readiness."""

import dataclasses
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from serving.gateway import canary_log, certificate, nodes, routes
from serving.gateway.canary_log import CanaryLog
from serving.gateway.clients import GatewayClient, GatewayClients
from serving.gateway.deployed import RUNNING
from serving.gateway.envoy import LOG, Envoy, GatewayError
from serving.gateway.fleet import Fleet
from serving.gateway.nodes import Node, NodeState
from serving.gateway.resources import CERTIFICATE, LIMITS, NODES, ROUTES, ResourceFile
from serving.host import ports
from serving.host.faults import Faults
from serving.host.ports import Address, PortError
from serving.host.repetition import repeated

CERTIFICATE_INTERVAL, FLEET_INTERVAL = 3600.0, 0.5  # seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """Who may ask a gateway: clients whose keys are in a folder (None: everybody), and whether in TLS."""

    keys: Path | None
    tls: bool = True

    def clients(self) -> dict[str, GatewayClient] | None:
        """Return those whose keys are valid at present, None if nobody needs a key."""
        return None if self.keys is None else GatewayClients.read(self.keys).valid(time.time())


class Gateway:
    """The gateway of a directory, in front of the servers of `servers`; it runs while a `with` block does.

    Args:
        files: certificate and key in PEM; None: it signs one itself.
        access: who may ask it, and whether in TLS.
        fleet: adds the servers of this machine that belong to it, and asks none whose versions it does not allow.
        queue: requests under way at each node; further ones are refused.

    Raises:
        ServingError: Envoy or the certificate is missing, the port is taken, or the clients cannot be read.
    """

    def __init__(
        self,
        root: Path,
        servers: Sequence[Path],
        address: Address,
        files: tuple[Path, Path] | None = None,
        *,
        access: Access | None = None,
        fleet: Fleet | None = None,
        queue: int = nodes.QUEUE,
    ) -> None:
        self._address, self._queue = address, queue
        self._access = access or Access(root)
        self.folder = root / RUNNING
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._owner = FileLock(self.folder.with_suffix(".lock"))  # outside: the folder may be removed
        try:
            self._owner.acquire(blocking=False)
        except Timeout:
            raise GatewayError(f"a gateway runs in {root}: end it first, or start this one in another folder") from None
        if not ports.is_free(address):
            raise PortError(f"port {address.port} is taken: stop what listens there, or name another with --port")
        self._inode = self.folder.stat().st_ino
        self._template = routes.template()
        self._lock = threading.Lock()  # nodes write from their threads
        self._files = {
            name: ResourceFile(self.folder / name, kind)
            for name, kind in (
                (ROUTES, routes.KIND), (NODES, nodes.KIND), (LIMITS, nodes.LIMITS_KIND), (CERTIFICATE, certificate.KIND)
            )
        }  # fmt: skip
        self._own_files = files
        self._canary_log = CanaryLog(self.folder / canary_log.FILE)
        self._certificate_due = self._refused = 0.0
        logger = logging.getLogger(__name__)
        self._faults = Faults(logger, "the gateway goes on as it was: %s")
        self._fleet_faults = Faults(logger, "the fleet stays as it was: %s")
        self._check_certificate()
        self._clients = self._access.clients()
        self._nodes = [Node(server, self._publish) for server in servers]
        self._fleet, self._running = fleet, ExitStack()
        self._allowed: set[Path] = set()
        self._others: dict[Path, dict[str, str]] = {}  # nodes with other versions than the fleet's
        self.envoy: Envoy | None = None

    def __enter__(self) -> Self:
        try:
            for node in self._nodes:
                node.start()
            if self._fleet is not None:
                self._follow_fleet()
                self._running.enter_context(repeated(self._follow_fleet, FLEET_INTERVAL, "fleet"))
            self._publish()
            self.envoy = Envoy(self.folder, self._address, tls=self._access.tls)
            self.envoy.wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End Envoy, after the requests under way, and the threads."""
        if self.envoy is not None:
            self.envoy.close()
        self._running.close()
        for node in self._nodes:
            node.close()
        self._owner.release()

    @property
    def nodes(self) -> list[Path]:
        """Return the directories of its servers."""
        return [node.root for node in self._nodes]

    def has_folder(self) -> bool:
        """Return whether nobody has removed its folder; after that Envoy reads no file again."""
        try:
            return self.folder.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def look(self) -> None:
        """Look after the clients and Envoy.

        Raises:
            GatewayError: Envoy has ended.
        """
        assert self.envoy is not None
        self.envoy.check()
        with self._faults.logged():  # such as a full disk: the next look may succeed
            self.envoy.rotate_log()
            self._read_clients()
            self._check_certificate()
            self._publish()  # also what could not be written before
            self._check_files()
            self._canary_log.report(self._nodes)

    def _follow_fleet(self) -> None:
        """Take up its new nodes, and the versions that it allows now."""
        assert self._fleet is not None
        with self._fleet_faults.logged():
            self._fleet.look()
            roots = {node.root for node in self._nodes}
            for folder in self._fleet.folders:
                if folder not in roots:
                    node = Node(folder, self._publish)
                    node.start()
                    self._nodes = [*self._nodes, node]
            self._publish()

    def _check_certificate(self) -> None:
        """Name the certificate to Envoy: the operator's, or a self-signed one, which is renewed before it expires."""
        if not self._access.tls or time.monotonic() < self._certificate_due:
            return
        own = certificate.own(self.folder) if self._own_files is None else self._own_files
        self._files[CERTIFICATE].write(certificate.resource(*(path.absolute() for path in own)))
        self._certificate_due = time.monotonic() + CERTIFICATE_INTERVAL

    def _check_files(self) -> None:
        """Say that Envoy has refused a file; it keeps the one before."""
        assert self.envoy is not None
        refused = sum(self.envoy.statistics(r"update_(rejected|failure)$").values())
        if refused > self._refused:
            logging.getLogger(__name__).warning("Envoy refuses a file of %s: see %s there", self.folder, LOG)
        self._refused = refused

    def _read_clients(self) -> None:
        if self._clients is not None:  # if they cannot be read, those known keep their keys
            self._clients = {name: client for name, client in self._clients.items() if client.is_valid(time.time())}
        self._clients = self._access.clients()

    def _states(self) -> list[NodeState]:
        """Return the states of the nodes that may answer: if the fleet allows none at present, those that could before.

        Nodes and fleet are read at different times: right after a deployment all nodes may look as if they were wrong.
        """
        states = {node.root: node.state for node in self._nodes if node.state is not None}
        if self._fleet is not None:
            allowed = {root for root, state in states.items() if self._fleet.allows(state.versions)}
            self._log_other_versions({root: states[root] for root in states.keys() - allowed})
            self._allowed = allowed or self._allowed & states.keys() or set(states)
            states = {root: state for root, state in states.items() if root in self._allowed}
        return list(states.values())

    def _log_other_versions(self, states: Mapping[Path, NodeState]) -> None:
        others = {root: dict(state.versions) for root, state in states.items() if state.versions}
        for root, versions in others.items():
            if self._others.get(root) != versions:
                text = ", ".join(f"{name} {version}" for name, version in versions.items())
                logging.getLogger(__name__).warning("%s serves %s, the fleet other versions: no requests", root, text)
        self._others = others

    def _publish(self) -> None:
        """Write what has changed for Envoy."""
        with self._lock:
            states = self._states()
            self._files[NODES].write(nodes.resource(states))
            self._files[LIMITS].write(nodes.limits(sum(node.is_healthy for node in states), self._queue))
            self._files[ROUTES].write(
                routes.resource(self._template, self._clients, nodes.readiness(states), nodes.versions(states))
            )
