"""The five addresses that TorchServe listens on, and whether they are free.

The management address is a unix socket if `serving.server` starts TorchServe: access to it means running code, and its
private folder keeps other users out, which a port cannot.
"""

import dataclasses
import os
import socket
from typing import Self
from urllib.parse import urlsplit

import psutil

from serving.errors import ServingError
from serving.host import properties

OFFSET_VARIABLE = "SIGHTLINE_PORT_OFFSET"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class PortError(ServingError):
    """A port is taken or invalid."""


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """A host and a TCP port."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Return the URL for a client on this machine."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"

    @property
    def listening(self) -> str:
        """Return the value for config.properties."""
        return f"http://{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True)
class Socket:
    """A unix socket; its path is absolute and has 100 characters at most."""

    path: str

    @property
    def url(self) -> str:
        """Return the address for a client on this machine."""
        return f"unix:{self.path}"

    @property
    def listening(self) -> str:
        """Return the value for config.properties."""
        return self.url


@dataclasses.dataclass(frozen=True, slots=True)
class Ports:
    """The five addresses of a server."""

    inference: Address
    management: Address | Socket
    metrics: Address
    grpc_inference: Address
    grpc_management: Address

    @classmethod
    def of_config(cls, text: str) -> Self:
        """Read them from the text of a config.properties; TorchServe's defaults fill in missing ones.

        Raises:
            PortError: one is not an address.
        """
        pairs = properties.read(text)

        def http(name: str, port: int) -> Address:
            url = urlsplit(pairs.get(f"{name}_address", ""))
            return Address(url.hostname or "127.0.0.1", url.port or port)

        def grpc(name: str, port: int) -> Address:
            return Address(pairs.get(f"{name}_address", "127.0.0.1"), int(pairs.get(f"{name}_port", port)))

        try:
            return cls(
                inference=http("inference", 8080),
                management=http("management", 8081),
                metrics=http("metrics", 8082),
                grpc_inference=grpc("grpc_inference", 7070),
                grpc_management=grpc("grpc_management", 7071),
            )
        except ValueError as error:
            raise PortError(f"config.properties has an invalid address ({error}): correct it") from error

    def all(self) -> tuple[Address, ...]:
        """Return the addresses that are ports."""
        five = self.inference, self.management, self.metrics, self.grpc_inference, self.grpc_management
        return tuple(address for address in five if isinstance(address, Address))

    def with_management_socket(self, path: str) -> Self:
        """Return the same with management behind a unix socket, unless it was opened to other machines on purpose."""
        opened = isinstance(self.management, Address) and self.management.host not in LOOPBACK
        return self if opened else dataclasses.replace(self, management=Socket(path))

    def moved(self, offset: int) -> Self:
        """Return the same addresses, each port `offset` higher.

        Raises:
            PortError: one would leave 1 to 65535.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved = {
            name: Address(address.host, address.port + offset)
            for name, address in fields.items()
            if isinstance(address, Address)
        }
        if not all(0 < address.port < 65536 for address in moved.values()):
            raise PortError(f"ports moved by {offset} are outside 1 to 65535: choose another offset")
        return dataclasses.replace(self, **moved)

    def properties(self) -> str:
        """Return the lines of a config.properties that set them; Java uses the last line of a key."""
        lines = [f"{name}_address={getattr(self, name).listening}" for name in ("inference", "management", "metrics")]
        lines += [
            f"grpc_inference_port={self.grpc_inference.port}",
            f"grpc_management_port={self.grpc_management.port}",
        ]
        return "\n".join(lines) + "\n"

    def check_free(self) -> None:
        """Refuse to start if another process listens on a port.

        Raises:
            PortError: the message names the port and, if known, the process.
        """
        for address in self.all():
            if not is_free(address):
                raise PortError(
                    f"port {address.port} is taken by {_owner(address.port)}: stop that, "
                    f"or move all ports of this server ({other_offset()} before the command)"
                )


def exporter_port(metrics_url: str) -> int:
    """Return the port of our exporter (`monitoring.exporter`), the next one behind that of TorchServe's metrics."""
    return (urlsplit(metrics_url).port or 8082) + 1


def offset_of_environment() -> int:
    """Return the value of SIGHTLINE_PORT_OFFSET, 0 if it is not set."""
    text = os.environ.get(OFFSET_VARIABLE, "0")
    try:
        return int(text)
    except ValueError:
        raise PortError(f"{OFFSET_VARIABLE} is {text!r}: set it to a whole number, or unset it") from None


def other_offset() -> str:
    """Return the variable to write before a command for other ports than the environment's."""
    return f"{OFFSET_VARIABLE}={offset_of_environment() + 100}"


def free_offset(base: Ports, start: int) -> int:
    """Return an offset of at least `start` by which all ports of `base` are free; processes begin at different ones.

    Raises:
        PortError: all are taken.
    """
    for offset in range(start + os.getpid() % 200 * 20, 55_000, 10):
        try:
            base.moved(offset).check_free()
        except PortError:
            continue
        return offset
    raise PortError(f"all ports from an offset of {start} on are taken: stop a server")


def is_free(address: Address) -> bool:
    """Return whether a server could listen on this address."""
    with socket.socket() as probe:
        # As Java's listeners do: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError:
            return False
        return True


def _owner(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr
            if listens and listens.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        pass
    return "another process"
