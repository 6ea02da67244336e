"""The gateway's nodes: TorchServe servers, each with its address, its token and the readiness of its models."""

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from serving.client import Client
from serving.client.deadline import Deadline
from serving.errors import ClientError, ServingError
from serving.host import state
from serving.host.resources import gpus
from serving.host.state import ServerState

KIND = "config.endpoint.v3.ClusterLoadAssignment"
LIMITS_KIND = "service.runtime.v3.Runtime"
CLUSTER = "nodes"
TICK = 0.02  # seconds between two looks at the token: until the gateway has a new one, requests are repeated
LOOK = 0.5  # seconds between two looks at the models
LOOK_WITH_GPUS = 2.0  # TorchServe runs nvidia-smi for each worker that it describes
PATIENCE = 2.0  # seconds for one look
QUEUE = 100  # requests under way at one node: as many as its queue holds


@dataclasses.dataclass(frozen=True, slots=True)
class NodeState:
    """A node as Envoy needs it; `ready` has whether each of its models can answer."""

    host: str
    port: int
    authorization: str = dataclasses.field(repr=False)
    ready: Mapping[str, bool] = dataclasses.field(default_factory=dict)

    @property
    def is_healthy(self) -> bool:
        """Return whether it has models, and all of them can answer."""
        return bool(self.ready) and all(self.ready.values())


class Node:
    """The server of one directory, watched in a thread; `changed` is called after its state has changed."""

    def __init__(self, root: Path, changed: Callable[[], None]) -> None:
        self.root, self._changed = root, changed
        self.state: NodeState | None = None  # None until a server has been seen
        self._server: ServerState | None = None
        self._client: Client | None = None
        self._ready: Mapping[str, bool] = {}
        self._due = 0.0
        self._fault = ""  # the last one, which is logged once
        self._pause = LOOK_WITH_GPUS if gpus() else LOOK
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"node {root.name}", daemon=True)

    def start(self) -> None:
        """Look once, then again and again in the thread."""
        self.look()
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ending.set()
        self._thread.join()
        if self._client is not None:
            self._client.close()

    def _run(self) -> None:
        while not self._ending.wait(TICK):
            try:
                self.look()
                self._fault = ""
            except (ServingError, OSError, psutil.Error) as error:  # such as a full disk: the next look may succeed
                if str(error) != self._fault:
                    logging.getLogger(__name__).warning("%s is not followed at present: %s", self.root, error)
                self._fault = str(error)

    def look(self) -> None:
        """Take up the server's present address and token, and now and then the readiness of its models."""
        if time.monotonic() >= self._due:
            self._take_up(state.running(self.root))
            self._ready = self._readiness()
            self._due = time.monotonic() + self._pause
        present = self._present()
        if present != self.state:
            self.state = present
            self._changed()

    def _take_up(self, server: ServerState | None) -> None:
        """Have a client of this server; keep that of one that has ended."""
        if server is None or (self._server is not None and server.pid == self._server.pid):
            return
        if self._client is not None:
            self._client.close()
        self._client, self._server = Client.of_state(server, deadline=PATIENCE), server

    def _readiness(self) -> dict[str, bool]:
        """Return whether each model's default version has a worker that is READY; none of a server without answer."""
        if self._client is None:
            return {}
        try:
            states = [self._client.describe(name) for name in self._client.models()]
        except ClientError:
            return dict.fromkeys(self._ready, False)
        return {model.name: any(worker.status == "READY" for worker in model.workers) for model in states}

    def _present(self) -> NodeState | None:
        if self._client is None:
            return None
        address = urlsplit(self._client.inference)
        before = self.state.authorization if self.state is not None else ""
        with contextlib.suppress(ClientError, OSError):
            before = self._client.tokens.current("inference", Deadline(PATIENCE)).header["Authorization"]
        return NodeState(address.hostname or "127.0.0.1", address.port or 80, before, self._ready)


def resource(nodes: Sequence[NodeState]) -> dict[str, Any]:
    """Return the nodes for Envoy."""
    return {"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": [_endpoint(node) for node in nodes]}]}


def _endpoint(node: NodeState) -> dict[str, Any]:
    address = {"socket_address": {"address": node.host, "port_value": node.port}}
    return {
        "endpoint": {"address": address},
        "health_status": "HEALTHY" if node.is_healthy else "UNHEALTHY",
        "metadata": {"filter_metadata": {"sightline": {"authorization": node.authorization}}},
    }


def limits(nodes: int, queue: int = QUEUE) -> dict[str, Any]:
    """Return the limits for a number of nodes: requests under way at all of them, `queue` at each."""
    names = (f"circuit_breakers.{CLUSTER}.default.{limit}" for limit in ("max_requests", "max_retries"))
    return {"name": "limits", "layer": dict.fromkeys(names, queue * max(1, nodes))}


def readiness(nodes: Sequence[NodeState]) -> dict[str, bool]:
    """Return whether each model is ready on a node."""
    names = sorted({name for node in nodes for name in node.ready})
    return {name: any(node.ready.get(name, False) for node in nodes) for name in names}
