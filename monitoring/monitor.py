"""Start Prometheus and Alertmanager for the server of this directory, on the loopback, until Ctrl-C.

    python -m monitoring.monitor

They are packages of the system (Debian: prometheus and prometheus-alertmanager). Their configuration is that of
deploy/prometheus/ with the ports of the running server. It is in logs/monitor/, as are their data and logs. The metrics
come from the exporter of `make watch`.
"""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import yaml

from monitoring import exporter
from serving.errors import ServingError
from serving.host import logs, ports
from serving.host.ports import LOOPBACK, Address
from serving.host.state import ServerState
from serving.lifecycle import launch

DEPLOY = Path(__file__).parents[1] / "deploy" / "prometheus"
FOLDER = Path(logs.FOLDER) / "monitor"
PROMETHEUS, ALERTMANAGER = 9090, 9093  # ports, moved as those of the server are
PACKAGES = {"prometheus": "prometheus", "prometheus-alertmanager": "prometheus-alertmanager"}
DAYS_KEPT = 15
START_LIMIT, INTERVAL = 30.0, 0.2  # seconds


class MonitorError(ServingError):
    """Prometheus or Alertmanager cannot run; the message says what to do."""


def configure(root: Path) -> tuple[Address, Address]:
    """Write the configuration for the server of a directory; return the addresses of Prometheus and Alertmanager."""
    offset, host = ports.offset_of_environment(), LOOPBACK[0]
    prometheus, alertmanager = Address(host, PROMETHEUS + offset), Address(host, ALERTMANAGER + offset)
    server = ServerState.read(root)
    config = (root / launch.CONFIG).read_text()
    metrics = server.metrics if server else ports.Ports.of_config(config).moved(offset).metrics.url
    targets = {
        "sightline": f"{host}:{exporter.port_of(root)}",
        "torchserve": urlsplit(metrics).netloc,
    }
    document = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    document["rule_files"] = [str(DEPLOY / name) for name in document["rule_files"]]
    document["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [f"{host}:{alertmanager.port}"]}]
    for job in document["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(document, sort_keys=False))
    return prometheus, alertmanager


@contextlib.contextmanager
def monitor(root: Path) -> Iterator[tuple[str, str]]:
    """Run both until the block ends; yield their addresses once they answer.

    Raises:
        MonitorError: a package is missing, a port is taken, or one of them ends.
    """
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if missing:
        raise MonitorError(f"not installed: apt-get install {' '.join(missing)} (or your system's packages)")
    prometheus, alertmanager = configure(root)
    folder = root / FOLDER
    commands = {
        alertmanager: [
            "prometheus-alertmanager",
            f"--config.file={DEPLOY / 'alertmanager.yml'}",
            f"--storage.path={folder / 'alerts'}",
            f"--web.listen-address={alertmanager.host}:{alertmanager.port}",
            "--cluster.listen-address=",
        ],
        prometheus: [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--storage.tsdb.retention.time={DAYS_KEPT}d",
            f"--web.listen-address={prometheus.host}:{prometheus.port}",
            f"--web.console.templates={DEPLOY / 'consoles'}",
        ],
    }
    with contextlib.ExitStack() as stack:
        for address, command in commands.items():
            stack.enter_context(_running(command, address, folder / f"{command[0]}.log"))
        yield prometheus.url, alertmanager.url


@contextlib.contextmanager
def _running(command: list[str], address: Address, log: Path) -> Iterator[None]:
    if not ports.is_free(address):
        raise MonitorError(
            f"port {address.port} is taken: stop the {command[0]} that runs there, or set {ports.other_offset()}"
        )
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    try:
        _wait(process, address, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(START_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", address: Address, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            lines = log.read_text(errors="replace").splitlines() or ["no output"]
            raise MonitorError(f"{log.stem} ended with status {process.returncode} ({lines[-1]}): mend that, see {log}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{address.url}/-/ready", timeout=INTERVAL).status_code == 200:
                return
        time.sleep(INTERVAL)
    raise MonitorError(f"no answer from {address.url} within {START_LIMIT:.0f} s, see {log}")


def main() -> int:
    """Run until interrupted, or until the terminal is closed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with monitor(Path.cwd()) as (prometheus, alertmanager):
            print(f"Overview {prometheus}/consoles/sightline.html", flush=True)
            print(f"Alerts   {prometheus}/alerts, routed by {alertmanager}", flush=True)
            print("Metrics come from the exporter of make watch. End with Ctrl-C.", flush=True)
            while True:
                time.sleep(3600)
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
