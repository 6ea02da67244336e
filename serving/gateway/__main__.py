"""Run the gateway in front of the server of this directory, or of several directories, until Ctrl-C.

    python -m serving.gateway                                  at https://localhost:8443
    python -m serving.gateway --node . --node ../other         two servers share the requests
    python -m serving.gateway --fleet /srv/fleet               the servers of this machine that follow a fleet
    python -m serving.gateway --host 0.0.0.0 --port 443 --certificate host.crt --key host.key
    python -m serving.gateway --host 0.0.0.0 --plain           behind another gateway, which ends TLS

`python -m serving.gateway.clients add <name>` gives a client a key. Its files, and the certificate that it signs itself
without one, are in logs/gateway/.
"""

import argparse
import ipaddress
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from serving.errors import ServingError
from serving.gateway.envoy import GatewayError
from serving.gateway.fleet import Fleet
from serving.gateway.gateway import Access, Gateway
from serving.gateway.nodes import QUEUE
from serving.host import ports, state
from serving.host.ports import LOOPBACK, Address
from serving.host.state import ServerState
from serving.lifecycle import launch

PORT, LARGEST_QUEUE = 8443, 100_000
INTERVAL = 1.0  # seconds between two looks at the clients and at Envoy


def _nodes(folders: Sequence[Path]) -> list[Path]:
    nodes = [folder.resolve() for folder in folders]
    for node in nodes:
        if ServerState.read(node) is None and not (node / launch.CONFIG).is_file():
            raise GatewayError(f"no server can run in {node}: name with --node a folder in which make serve starts one")
        if nodes.count(node) > 1:
            raise GatewayError(f"--node names {node} twice: name each folder once")
    return nodes


def _address(host: str, port: int) -> Address:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        raise GatewayError(f"{host} is no IPv4 address to listen at: name one with --host, such as 0.0.0.0") from None
    if not 0 < port < 65536:
        raise GatewayError(f"{port} is no port: name one of 1 to 65535 with --port")
    return Address(host, port)


def _announce(access: Access, nodes: Sequence[Path], fleet: str | None, address: Address) -> None:
    host = "localhost" if address.host == LOOPBACK[0] else address.host
    scheme = "https" if access.tls else "http"
    print(f"The gateway is at {scheme}://{host}:{address.port} until Ctrl-C", flush=True)
    if not nodes:
        print(
            f"No server on this machine follows {fleet} yet: make watch FLEET={fleet} in the folder of each",
            flush=True,
        )
    for node in nodes:
        if state.running(node) is None:
            print(f"No server runs in {node} yet: start one there with make serve", flush=True)
    if access.clients() == {}:
        print("No client has a key yet: python -m serving.gateway.clients add <name>", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until interrupted; return 1 on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.gateway", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default=LOOPBACK[0], help="address to listen at (default: this machine only)")
    parser.add_argument("--port", type=int, help=f"default {PORT}, moved as the server's ports are")
    parser.add_argument("--node", type=Path, action="append", help="directory of a server (default: this one)")
    parser.add_argument("--fleet", metavar="ADDRESS", help="use those on this machine that follow it")
    parser.add_argument("--certificate", type=Path, help="in PEM, with --key")
    parser.add_argument("--key", type=Path, help="in PEM")
    parser.add_argument("--plain", action="store_true", help="HTTP without TLS")
    parser.add_argument("--clients", type=Path, metavar="FOLDER", help="with the file of keys (default: this one)")
    parser.add_argument("--no-keys", action="store_true", help="answer everybody, such as a mesh that checks clients")
    parser.add_argument("--queue", type=int, default=QUEUE, help=f"requests under way at each node (default {QUEUE})")
    options = parser.parse_args(arguments)
    if not 1 <= options.queue <= LARGEST_QUEUE:
        parser.error(f"--queue {options.queue} is impossible: name 1 to {LARGEST_QUEUE:,}")
    if (options.certificate is None) != (options.key is None):
        parser.error("name --certificate and --key together")
    if options.plain and options.certificate is not None:
        parser.error("--plain has no certificate: name the one or the other")
    if options.no_keys and options.clients is not None:
        parser.error("--no-keys has no clients: name the one or the other")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    root = Path.cwd()
    try:
        address = _address(options.host, options.port or PORT + ports.offset_of_environment())
        files = (options.certificate, options.key) if options.certificate is not None else None
        fleet = Fleet(options.fleet) if options.fleet else None
        nodes = _nodes(options.node or ([root] if fleet is None else []))
        access = Access(None if options.no_keys else options.clients or root, tls=not options.plain)
        while True:
            with Gateway(root, nodes, address, files, access=access, fleet=fleet, queue=options.queue) as gateway:
                _announce(access, gateway.nodes, options.fleet, address)
                while gateway.has_folder():
                    gateway.look()
                    time.sleep(INTERVAL)
            also = "" if files is not None else ", with another certificate: clients need the new tls.crt"
            print(f"{gateway.folder} was removed: the gateway starts anew{also}", flush=True)
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
