"""The running gateway: Envoy, and the files from which it knows nodes, tokens, clients and readiness."""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from serving.errors import ServingError
from serving.gateway import certificate, nodes, routes
from serving.gateway.clients import GatewayClient, GatewayClients
from serving.gateway.deployed import RUNNING
from serving.gateway.envoy import Envoy
from serving.gateway.nodes import Node
from serving.gateway.resources import CERTIFICATE, LIMITS, NODES, ROUTES, ResourceFile
from serving.host.ports import Address


class Gateway:
    """The gateway of a directory, in front of the servers of `servers`; it runs while a `with` block does.

    Args:
        files: certificate and key in PEM; None: it signs one itself.
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
        queue: int = nodes.QUEUE,
    ) -> None:
        self._root, self._address, self._queue = root, address, queue
        self.folder = root / RUNNING
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._template = routes.template()
        self._clients: dict[str, GatewayClient] = {}
        self._lock = threading.Lock()  # nodes write from their threads
        self._files = {
            name: ResourceFile(self.folder / name, kind)
            for name, kind in (
                (ROUTES, routes.KIND), (NODES, nodes.KIND), (LIMITS, nodes.LIMITS_KIND), (CERTIFICATE, certificate.KIND)
            )
        }  # fmt: skip
        paths = certificate.own(self.folder) if files is None else (files[0].resolve(), files[1].resolve())
        self._files[CERTIFICATE].write(certificate.resource(*paths))
        self._clients = GatewayClients.read(root).valid(time.time())
        self._nodes = [Node(server, self._publish) for server in servers]
        self.envoy: Envoy | None = None

    def __enter__(self) -> Self:
        for node in self._nodes:
            node.start()
        try:
            self._publish()
            self.envoy = Envoy(self.folder, self._address)
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
        for node in self._nodes:
            node.close()

    def look(self) -> None:
        """Look after the clients and Envoy.

        Raises:
            GatewayError: Envoy has ended.
        """
        assert self.envoy is not None
        self.envoy.check()
        self.envoy.rotate_log()
        self._read_clients()
        self._publish()  # also what could not be written before

    def _read_clients(self) -> None:
        try:
            clients = GatewayClients.read(self._root).valid(time.time())
        except ServingError as error:  # those known so far keep their keys
            logging.getLogger(__name__).warning("%s", error)
            return
        self._clients = clients

    def _publish(self) -> None:
        """Write what has changed for Envoy."""
        with self._lock:
            states = [node.state for node in self._nodes if node.state is not None]
            self._files[NODES].write(nodes.resource(states))
            self._files[LIMITS].write(nodes.limits(sum(node.is_healthy for node in states), self._queue))
            self._files[ROUTES].write(routes.resource(self._template, self._clients, nodes.readiness(states)))
