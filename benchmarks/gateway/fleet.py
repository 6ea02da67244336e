"""Nodes of one small model behind a gateway, all on the loopback, and a client with a key."""

import base64
import contextlib
import dataclasses
import shutil
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.crashes import watcher
from benchmarks.harness import small_server
from benchmarks.harness.small_server import MODEL
from serving import server
from serving.client import Client
from serving.errors import ClientError
from serving.gateway import clients
from serving.gateway.certificate import CERTIFICATE
from serving.gateway.fleet import Fleet as DesiredFleet
from serving.gateway.gateway import Gateway
from serving.gateway.nodes import QUEUE
from serving.host import ports, state
from serving.host.ports import LOOPBACK, Address, Ports
from serving.host.repetition import repeated
from serving.host.state import WORKER
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

    def image_files(self) -> list[Path]:
        """Write the images beside the first node for `wrk`; return their paths."""
        folder = self.nodes[0].parent
        paths = [folder / f"{number}.jpg" for number in range(small_server.IMAGES)]
        for path, image in zip(paths, small_server.images(), strict=True):
            path.write_bytes(image)
        return paths

    def client(self) -> Client:
        """Return a client of the first node."""
        return Client(root=self.nodes[0])

    def workers(self, number: int) -> list[int]:
        """Return the processes of a node's workers."""
        with Client(root=self.nodes[number]) as client:
            return [worker.pid for worker in client.describe(MODEL).workers if worker.pid > 0]

    def session(self) -> httpx.Client:
        """Return a session with the gateway, with the client's key."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        return httpx.Client(verify=context, headers=self.headers, trust_env=False, timeout=30)

    def direct(self) -> tuple[str, dict[str, str]]:
        """Return the address and the headers of a prediction by the first node, without the gateway."""
        node = state.running(self.nodes[0])
        assert node is not None
        return small_server.address(node)

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Return the processes of the nodes and of the gateway."""
        assert self.gateway.envoy is not None
        front_ends = [node.process() for path in self.nodes if (node := state.running(path)) is not None]
        running = [process for process in front_ends if process is not None]
        below = [child for process in running for child in process.children(recursive=True) if _is_worker(child)]
        return {"nodes": [*running, *below], "gateway": [psutil.Process(self.gateway.envoy.process.pid)]}

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


def _is_worker(process: psutil.Process) -> bool:
    """Return whether it is a worker: once a minute TorchServe runs another process, for its metrics."""
    with contextlib.suppress(psutil.Error):
        return any(argument.endswith(WORKER) for argument in process.cmdline())
    return False


@contextlib.contextmanager
def running(
    root: Path, count: int, *, versions: Sequence[str] = ("1.0",), settings: Sequence[str] = (), watched: bool = False,
    change: Callable[[Path], object] = lambda node: None, queue: int = QUEUE, desired: str | None = None,
) -> Iterator[Fleet]:  # fmt: skip
    """Run `count` nodes that serve version 1.0 and their gateway in the emptied folder `root` until the block ends.

    `settings` are those of the archive; with `watched`, `make watch` restarts a node that has died. `change` alters the
    folder of the node from which the others are copied; `queue` is that of the gateway. With `desired`, an address,
    all of them follow it.
    """
    shutil.rmtree(root, ignore_errors=True)
    nodes = [root / f"node-{number}" for number in range(count)]
    small_server.prepare(nodes[0], versions, settings)
    change(nodes[0])
    for node in nodes[1:]:
        shutil.copytree(nodes[0], node)
    with contextlib.ExitStack() as stack:
        offset = FIRST_OFFSET
        for node in nodes:
            offset = ports.free_offset(Ports.of_config((node / launch.CONFIG).read_text()), offset + BETWEEN)
            stack.callback(server.stop, root=node)
            server.start([f"{MODEL}=1.0"], root=node, offset=offset)
            if watched:
                options = ["--fleet", desired, "--node", node.name] if desired is not None else []
                stack.enter_context(watcher(node, *options))
        key = clients.add(root, CLIENT, rate=RATE)
        address = Address(LOOPBACK[0], PORT + offset)
        shared = DesiredFleet(desired) if desired is not None else None
        gateway = stack.enter_context(Gateway(root, nodes, address, fleet=shared, queue=queue))
        stack.enter_context(repeated(gateway.look, LOOK, "gateway"))
        basic = base64.b64encode(f"{CLIENT}:{key}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "image/jpeg"}
        url = f"https://localhost:{address.port}/predictions/{MODEL}"
        yield Fleet(nodes, gateway, url, headers, gateway.folder / CERTIFICATE)
