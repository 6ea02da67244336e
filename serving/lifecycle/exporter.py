"""The exporter of metrics as a process beside the server of a directory, which is started again after it has ended."""

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from serving.host import logs, ports
from serving.host.ports import LOOPBACK
from serving.host.repetition import repeated
from serving.host.state import ServerState
from serving.lifecycle.backoff import Backoff

CODE = Path(__file__).resolve().parents[2]
MODULE, LOG = "monitoring.exporter", "exporter.log"
LARGEST = 1_000_000  # bytes of the log
INTERVAL = 1.0  # seconds between two looks
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds until the next start

# With two threads, NumPy's BLAS takes twice the processor time for the same speed.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

logger = logging.getLogger(__name__)


class Exporter:
    """The process; it ends with this one, whatever ends this one."""

    def __init__(self, root: Path, host: str = LOOPBACK[0], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._host, self._clock = root, host, clock
        self._starts = Backoff(FIRST_PAUSE, LONGEST_PAUSE, clock)
        self._process: subprocess.Popen[bytes] | None = None
        self._port, self._start_time = 0, 0.0

    def look(self) -> None:
        """Start the exporter once a server was started, and again if it has ended or the server has other ports."""
        server = ServerState.read(self._root)
        if server is None:
            return
        port = ports.exporter_port(server.metrics)
        if self._process is not None and self._process.poll() is None:
            if self._clock() - self._start_time > LONGEST_PAUSE:
                self._starts.reset()
            if port == self._port:
                return
            self.close()
        elif self._process is not None:
            self._ended(self._process.returncode)
        if self._starts.is_due():
            self._start(port)

    def _start(self, port: int) -> None:
        log = self._root / logs.FOLDER / LOG
        command = [sys.executable, "-m", MODULE, "--host", self._host, "--port", str(port), "--until-closed"]
        try:
            # The reason why the last one ended stays.
            is_large = log.is_file() and log.stat().st_size > LARGEST
            with open(log, "wb" if is_large else "ab") as file:
                # It ends when its standard input is closed, which a killed parent's is too.
                self._process = subprocess.Popen(
                    command,
                    cwd=self._root,
                    env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(CODE)},  # the server's folder may be elsewhere
                    stdin=subprocess.PIPE,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
        except OSError as error:
            self._starts.fail()
            logger.error("the exporter of metrics does not start: %s", error)
            return
        self._port, self._start_time = port, self._clock()

    def _ended(self, code: int) -> None:
        self.close()
        if not self._starts.is_failing():
            logger.warning("the exporter of metrics has ended (%d, see %s/%s): restarting it", code, logs.FOLDER, LOG)
        self._starts.fail()

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate()
            self._process = None


@contextlib.contextmanager
def beside(root: Path, host: str = LOOPBACK[0]) -> Iterator[None]:
    """Have an exporter run beside the server of a directory, at that address, until the block ends."""
    exporter = Exporter(root, host)
    try:
        with repeated(exporter.look, INTERVAL, "exporter"):
            yield
    finally:
        exporter.close()
