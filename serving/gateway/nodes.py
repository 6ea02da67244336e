"""The gateway's nodes: TorchServe servers, each with its address, its token and the readiness of its models."""

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from handlers.sampling import Share
from serving.client import Client
from serving.client.canary import Canary
from serving.client.deadline import Deadline
from serving.errors import ClientError
from serving.host import logs, state
from serving.host.faults import Faults
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
    """A node as Envoy needs it.

    `ready` has whether each of its models can answer, `loading` those that never could on this server, `canaries` the
    versions that answer a share of their requests, and `versions` those that answer the others.
    """

    host: str
    port: int
    authorization: str = dataclasses.field(repr=False)
    ready: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    canaries: Mapping[str, Share] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    loading: frozenset[str] = frozenset()

    @property
    def is_healthy(self) -> bool:
        """Return whether all of its models can answer, but those that are loaded for the first time."""
        models = self.ready.keys() - self.loading
        return bool(models) and all(self.ready[name] for name in models)


class Node:
    """The server of one directory, followed in two threads; `changed` is called after its state has changed.

    One thread looks for its server and the readiness of its models, the other for its token, which must not wait.
    """

    def __init__(self, root: Path, changed: Callable[[], None]) -> None:
        self.root, self._changed = root, changed
        self.state: NodeState | None = None  # None until a server has been seen
        self._server: ServerState | None = None
        self._client: Client | None = None
        self._ready: Mapping[str, bool] = {}
        self._answered: set[str] = set()  # models that were ready on this server
        self._versions: Mapping[str, str] = {}
        self._canary_files = Canary(root / logs.FOLDER)
        self._canaries: Mapping[str, Share] = {}
        self._ending = threading.Event()
        pause = LOOK_WITH_GPUS if gpus() else LOOK
        self._threads = [
            threading.Thread(
                target=self._repeat, args=(action, seconds), name=f"{root.name} {action.__name__}", daemon=True
            )
            for action, seconds in ((self.look, pause), (self.publish, TICK))
        ]

    def start(self) -> None:
        """Look once, then again and again in the threads."""
        self.look()
        self.publish()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads."""
        self._ending.set()
        for thread in self._threads:
            if thread.ident is not None:  # it was started
                thread.join()
        if self._client is not None:
            self._client.close()

    @property
    def address(self) -> str | None:
        """Return its host and port, None until a server has been seen."""
        return f"{self.state.host}:{self.state.port}" if self.state is not None else None

    def add_failure(self, model: str, reason: str) -> None:
        """Tell the deployment that its canary has not answered a request."""
        self._canary_files.add_failure(model, reason)

    def _repeat(self, action: Callable[[], None], seconds: float) -> None:
        faults = Faults(logging.getLogger(__name__), f"{self.root} is not followed at present: %s")
        while not self._ending.wait(seconds):
            with faults.logged():
                action()

    def look(self) -> None:
        """Take up the present server and the readiness of its models."""
        self._take_up(state.running(self.root))
        self._ready = self._readiness()
        self._answered = {name for name, ready in self._ready.items() if ready or name in self._answered}
        shares = {name: self._canary_files.share(name) for name in self._ready}
        self._canaries = {name: share for name, share in shares.items() if share is not None}

    def publish(self) -> None:
        """Take up the present token, and call `changed` if the state differs."""
        present, before = self._present(), self.state
        if present == before:
            return
        self.state = present
        self._changed()
        if before is not None and present is not None and present.is_healthy != before.is_healthy:
            news = "is ready" if present.is_healthy else "is not ready: requests go to it only if no other is"
            logging.getLogger(__name__).warning("the server of %s %s", self.root, news)

    def _take_up(self, server: ServerState | None) -> None:
        """Have a client of this server; keep that of one that has ended."""
        if server is None or server == self._server:
            return
        self._client, before = Client.of_state(server, deadline=PATIENCE), self._client
        self._answered = set()
        self._server = server
        if before is not None:
            before.close()

    def _readiness(self) -> dict[str, bool]:
        """Return whether each model's default version has a worker that is READY; none of a server without answer."""
        client, deadline = self._client, Deadline(PATIENCE)
        if client is None:
            return {}
        try:
            names = client.models(deadline=PATIENCE)
            states = [client.describe(name, deadline=max(deadline.remaining_seconds, TICK)) for name in names]
        except ClientError:
            return dict.fromkeys(self._ready, False)
        self._versions = {model.name: model.version for model in states}
        return {model.name: any(worker.status == "READY" for worker in model.workers) for model in states}

    def _present(self) -> NodeState | None:
        client = self._client
        if client is None:
            return None
        address = urlsplit(client.inference)
        authorization = self.state.authorization if self.state is not None else ""
        with contextlib.suppress(ClientError, OSError):
            authorization = client.tokens.current("inference", Deadline(PATIENCE)).header["Authorization"]
        host, port = address.hostname or "127.0.0.1", address.port or 80
        loading = frozenset(self._ready.keys() - self._answered)
        return NodeState(host, port, authorization, self._ready, self._canaries, self._versions, loading)


def resource(nodes: Sequence[NodeState]) -> dict[str, Any]:
    """Return the nodes for Envoy."""
    return {"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": [_endpoint(node) for node in nodes]}]}


def _endpoint(node: NodeState) -> dict[str, Any]:
    address = {"socket_address": {"address": node.host, "port_value": node.port}}
    canaries = [f"{name}/{share.version}/{share.share:f}" for name, share in node.canaries.items()]
    metadata = {"authorization": node.authorization, "canary": " ".join([f"{node.host}:{node.port}", *canaries])}
    return {
        "endpoint": {"address": address},
        "health_status": "HEALTHY" if node.is_healthy else "UNHEALTHY",
        "metadata": {"filter_metadata": {"sightline": metadata}},
    }


def limits(nodes: int, queue: int = QUEUE) -> dict[str, Any]:
    """Return the limits for a number of nodes: requests under way at all of them, `queue` at each."""
    names = (f"circuit_breakers.{CLUSTER}.default.{limit}" for limit in ("max_requests", "max_retries"))
    return {"name": "limits", "layer": dict.fromkeys(names, queue * max(1, nodes))}


def readiness(nodes: Sequence[NodeState]) -> dict[str, bool]:
    """Return whether each model is ready on a node."""
    names = sorted({name for node in nodes for name in node.ready})
    return {name: any(node.ready.get(name, False) for node in nodes) for name in names}


def versions(nodes: Sequence[NodeState]) -> dict[str, list[str]]:
    """Return the versions of each model that answer on a node."""
    pairs = {(name, version) for node in nodes for name, version in node.versions.items()}
    return {name: sorted(version for other, version in pairs if other == name) for name in sorted(dict(pairs))}
