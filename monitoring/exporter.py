"""Serve the metrics of this directory's server and its workers to Prometheus, on the loopback.

    python -m monitoring.exporter               at http://127.0.0.1:8083/metrics, the port behind TorchServe's metrics
    python -m monitoring.exporter --port 9000

`make watch` and the container start it. It reads the files of the workers and asks the management API; no request of a
client waits for it. docs/monitoring.md lists the names.
"""

import argparse
import signal
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server

from monitoring.drift_metrics import DriftMetrics
from monitoring.server_metrics import ServerMetrics
from monitoring.worker_metrics import WorkerMetrics
from serving.errors import ServingError
from serving.host import ports
from serving.host.ports import LOOPBACK, Address, PortError, Ports
from serving.host.state import ServerState
from serving.lifecycle import launch
from serving.store import model_store


def registry(root: Path) -> CollectorRegistry:
    """Return the metrics of the server of a directory."""

    def folder() -> Path | None:
        server = ServerState.read(root)
        return launch.observations(server.temporary) if server is not None else None

    metrics = CollectorRegistry()
    metrics.register(WorkerMetrics(folder))
    metrics.register(ServerMetrics(root))
    metrics.register(DriftMetrics(folder, root / model_store.FOLDER))
    return metrics


def port_of(root: Path) -> int:
    """Return the port for the server of a directory: that of the running one, or of the next."""
    server = ServerState.read(root)
    if server is not None:
        return ports.exporter_port(server.metrics)
    config = (root / launch.CONFIG).read_text()
    return ports.exporter_port(Ports.of_config(config).moved(ports.offset_of_environment()).metrics.url)


def main() -> int:
    """Serve until interrupted, or until standard input ends; return 1 on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.exporter", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default=LOOPBACK[0], help="address to listen at (default: this machine only)")
    parser.add_argument("--port", type=int, help="default: the port behind that of TorchServe's metrics")
    parser.add_argument("--until-closed", action="store_true", help="end when standard input is closed")
    arguments = parser.parse_args()
    root = Path.cwd()
    try:
        port = arguments.port or port_of(root)
        if not ports.is_free(Address(arguments.host, port)):
            raise PortError(f"port {port} is taken: make watch runs an exporter already, or choose another --port")
        start_http_server(port, arguments.host, registry(root))
    except (ServingError, OSError) as error:
        print(f"error: no metrics are served: {error}", file=sys.stderr)
        return 1
    print(f"Metrics at {Address(arguments.host, port).url}/metrics", flush=True)
    try:
        if arguments.until_closed:
            sys.stdin.buffer.read()
        else:
            signal.pause()
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
