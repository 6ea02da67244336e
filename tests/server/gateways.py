"""A running gateway for tests, and clients that ask it."""

import contextlib
import dataclasses
import itertools
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.gateway import clients
from serving.gateway.certificate import CERTIFICATE
from serving.gateway.deployed import RUNNING
from serving.gateway.envoy import Envoy, GatewayError, binary
from serving.gateway.fleet import Fleet
from serving.gateway.gateway import Gateway
from serving.host.ports import Address
from serving.host.repetition import repeated
from tests.server.conftest import picture

MODEL, PHOTO, CALLERS, RATE = "shapes", picture(1), 2, 1000  # requests/s

try:
    binary()
except GatewayError as error:
    pytest.skip(str(error), allow_module_level=True)


def free_address() -> Address:
    """Return an address of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return Address("127.0.0.1", probe.getsockname()[1])


@dataclasses.dataclass(frozen=True, slots=True)
class RunningGateway:
    """A gateway, the client `ann` with a key, and connections to it."""

    root: Path
    address: Address
    envoy: Envoy
    key: str
    session: httpx.Client

    def predict(self, path: str = f"/predictions/{MODEL}", **options: Any) -> httpx.Response:
        """Send an image with the key, or what `options` say otherwise."""
        options = {"content": PHOTO, "auth": ("ann", self.key), **options}
        return self.session.post(path, **options)

    @property
    def folder(self) -> Path:
        """Return the folder of its files."""
        return self.root / RUNNING

    def reached(self) -> int:
        """Return the number of requests that nodes have got."""
        return self.envoy.statistics(r"cluster\.nodes\.upstream_rq_total")["cluster.nodes.upstream_rq_total"]

    @contextlib.contextmanager
    def callers(self, rate: float) -> Iterator[list[httpx.Response]]:
        """Have clients send images, another one each time, until the block ends; yield the growing list of answers.

        `rate` is in requests/s.
        """
        ending, answers = threading.Event(), list[httpx.Response]()

        def send(first: int) -> None:
            for seed in itertools.count(first, CALLERS):
                if ending.wait(CALLERS / rate):
                    return
                answers.append(self.predict(f"/predictions/{MODEL}?image={seed}", content=picture(seed)))

        threads = [threading.Thread(target=send, args=(first,)) for first in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield answers
        finally:
            ending.set()
            for thread in threads:
                thread.join()


def versions(answers: Sequence[httpx.Response]) -> list[str]:
    """Return the version of each answer, the status of one that is no prediction."""
    return [answer.headers.get("model-version", str(answer.status_code)) for answer in answers]


@contextlib.contextmanager
def running(root: Path, nodes: Sequence[Path], *, fleet: str | None = None) -> Iterator[RunningGateway]:
    """Run a gateway of the directory `root` in front of servers, or of those of a fleet, until the block ends."""
    key, address = clients.add(root, "ann", rate=RATE), free_address()
    with Gateway(root, nodes, address, fleet=Fleet(fleet) if fleet is not None else None) as gateway:
        assert gateway.envoy is not None
        context = ssl.create_default_context(cafile=str(gateway.folder / CERTIFICATE))
        url = f"https://localhost:{address.port}"
        with (
            httpx.Client(base_url=url, verify=context, trust_env=False, timeout=10) as session,
            repeated(gateway.look, 0.2, "gateway"),
        ):
            yield RunningGateway(root, address, gateway.envoy, key, session)
    assert gateway.envoy.process.poll() is not None
