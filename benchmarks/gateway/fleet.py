"""Nodes of one small model behind a gateway, all on the loopback, and a client with a key."""

import base64
import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.crashes import watcher
from benchmarks.harness import small_server
from benchmarks.harness.small_server import MODEL
from serving import server
from serving.client import Client
from serving.errors import ClientError
from serving.gateway import clients
from serving.gateway.certificate import CERTIFICATE
from serving.gateway.gateway import Gateway
from serving.host import ports
from serving.host.ports import LOOPBACK, Address, Ports
from serving.host.repetition import repeated
from serving.lifecycle import launch

CLIENT, RATE = "load", 100_000  # requests/s: no limit
FIRST_OFFSET, BETWEEN, PORT = 3000, 40, 8443  # of the nodes' ports; of the gateway
LOOK = 0.5  # seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Fleet:
    """Running nodes and their gateway; `url` and `headers` are those of a prediction through it."""

    nodes: Sequence[Path]
    gateway: Gateway
    url: str
    headers: dict[str, str]
    certificate: Path

    def is_ready(self, number: int) -> bool:
        """Return whether a node answers, and all workers of its model are READY."""
        with contextlib.suppress(ClientError), Client(root=self.nodes[number], deadline=2.0) as client:
            return client.describe(MODEL).ready
        return False

    def counters(self) -> dict[str, int]:
        """Return what Envoy has counted: attempts, repeats, hedges, and requests that it refused itself."""
        assert self.gateway.envoy is not None
        prefix = "cluster.nodes.upstream_rq_"
        counted = self.gateway.envoy.statistics(prefix.replace(".", r"\."))
        names = ("total", "retry", "retry_success", "per_try_timeout", "timeout", "pending_overflow", "retry_overflow")
        return {name: counted.get(prefix + name, 0) for name in names}

    def load(self, **options: Any) -> dict[str, Any]:
        """Return the arguments of a load of predictions through the gateway."""
        return {"url": self.url, "headers": self.headers, "certificate": self.certificate, **options}


@contextlib.contextmanager
def running(
    root: Path, count: int, *, versions: Sequence[str] = ("1.0",), settings: Sequence[str] = (), watched: bool = False
) -> Iterator[Fleet]:
    """Run `count` nodes that serve version 1.0 and their gateway in the emptied folder `root` until the block ends.

    `settings` are those of the archive; with `watched`, `make watch` restarts a node that has died.
    """
    shutil.rmtree(root, ignore_errors=True)
    nodes = [root / f"node-{number}" for number in range(count)]
    small_server.prepare(nodes[0], versions, settings)
    for node in nodes[1:]:
        shutil.copytree(nodes[0], node)
    with contextlib.ExitStack() as stack:
        offset = FIRST_OFFSET
        for node in nodes:
            offset = ports.free_offset(Ports.of_config((node / launch.CONFIG).read_text()), offset + BETWEEN)
            stack.callback(server.stop, root=node)
            server.start([f"{MODEL}=1.0"], root=node, offset=offset)
            if watched:
                stack.enter_context(watcher(node))
        key = clients.add(root, CLIENT, rate=RATE)
        address = Address(LOOPBACK[0], PORT + offset)
        gateway = stack.enter_context(Gateway(root, nodes, address))
        stack.enter_context(repeated(gateway.look, LOOK, "gateway"))
        basic = base64.b64encode(f"{CLIENT}:{key}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "image/jpeg"}
        url = f"https://localhost:{address.port}/predictions/{MODEL}"
        yield Fleet(nodes, gateway, url, headers, gateway.folder / CERTIFICATE)
