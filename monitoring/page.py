"""Look at the served models in a browser, until Ctrl-C: images, heat maps, corrections, drift and traffic.

    python -m monitoring.page                          at http://127.0.0.1:8084, the port behind the exporter's
    python -m monitoring.page --name birds --port 9000

Only this machine reaches it. It sends requests with the key of this directory's server, which no browser gets.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from monitoring import exporter
from monitoring.web.server import PageServer
from monitoring.web.site import Site
from serving.errors import ServingError
from serving.host import ports, state
from serving.host.ports import LOOPBACK, Address, PortError
from serving.store import model_store


def port_of(root: Path) -> int:
    """Return the port for the server of a directory."""
    return exporter.port_of(root) + 1


def _free_port(port: int) -> int:
    if not 0 < port < 65536:
        raise PortError(f"{port} is no port: name one of 1 to 65535, with PORT=")
    if not ports.is_free(Address(LOOPBACK[0], port)):
        raise PortError(f"port {port} is taken: choose another with PORT=")
    return port


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until interrupted; return 1 on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default="", help="the model to show first")
    parser.add_argument("--port", type=int, help="default: the port behind the exporter's")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        if options.name:
            model_store.check_name(options.name)
        port = _free_port(port_of(root) if options.port is None else options.port)
        site = Site(root, options.name)
        with contextlib.closing(site), PageServer(port, site) as server:
            print(f"The page is at {server.url} until Ctrl-C", flush=True)
            if state.running(root) is None:
                print("No server runs in this folder yet: start one with make serve", flush=True)
            server.serve_forever()
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
