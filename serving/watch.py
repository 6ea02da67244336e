"""Watch the server that was started here: repair what dies or hangs, and say so, until it is interrupted.

    python -m serving.watch

A front end that has ended, or does not answer, is started anew, with what model_store/live.json says is live. A model
whose workers TorchServe has given up gets new ones. A worker whose queue does not move is ended, which TorchServe
answers with another. What is done is printed and written to logs/watch.log. A server that was stopped (`make stop`)
stays stopped.
"""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import psutil
from rich.console import Console
from rich.logging import RichHandler

from serving import logs, model_store, server, state
from serving.client import Client, ClientError, ModelStatus
from serving.java import JavaError
from serving.model_store import Archive, ArchiveError
from serving.ports import PortError
from serving.server import ServerError
from serving.state import ServerState

LOG = "watch.log"
EVERY = 0.5  # seconds between two looks
SILENT = 2.0  # seconds until a front end that does not answer is taken for dead
GIVEN_UP = 6.0  # seconds that a worker may have no process: TorchServe's first pauses are 1, 1, 2 and 3
STUCK = 8.0  # seconds until a queue that does not let an image through is taken for stuck
_STATES = ("WORKER_ERROR", "WORKER_STOPPED", "WORKER_SCALED_DOWN")

logger = logging.getLogger("serving.watch")


class Watch:
    """Looks at one server again and again; what it has seen so far decides what it does."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.root, self.clock = root.resolve(), clock
        self.answered = clock()
        self.without: dict[tuple[str, str], float] = {}  # since when a version has a worker without a process
        self.probes: dict[tuple[str, str], tuple[float, Future[None]]] = {}
        self.images: dict[tuple[str, str], bytes] = {}
        self.pool = ThreadPoolExecutor(thread_name_prefix="probe")

    def look(self) -> None:
        """Look once, and repair what is wrong."""
        known = ServerState.read(self.root)
        if known is None:  # stopped, or never started
            self.answered = self.clock()
            return
        if known.process() is None:
            self._start(known, "the front end has ended")
            return
        try:
            with Client.of_state(known, deadline=SILENT) as client:
                found = [each for name in client.models() for each in client.versions(name)]
        except ClientError as error:
            if self.clock() - self.answered > SILENT:
                self._start(known, f"the front end does not answer ({error})")
            return
        self.answered = self.clock()
        for each in found:
            self._workers(known, each)
            self._queue(known, each)

    def _start(self, known: ServerState, why: str) -> None:
        logger.warning("%s: starting the server again", why)
        began = self.clock()
        try:
            server.stop(root=self.root)
            config = Path(known.config) if known.config else None
            server.start(root=self.root, config=config, offset=known.offset, access_log=known.access_log)
            logger.warning("the server is back after %.1f s", self.clock() - began)
        except (ServerError, ArchiveError, PortError, JavaError, OSError) as error:
            known.write(self.root)  # so that the next look tries again
            logger.error("the server does not start: %s", str(error).splitlines()[0])
        self.answered = self.clock()
        self.without.clear()
        self.probes.clear()

    def _workers(self, known: ServerState, model: ModelStatus) -> None:
        """Give a version new workers where TorchServe does not start them again."""
        key = (model.name, model.version)
        dead = [each for each in model.workers if each.status != "READY" and not _runs(each.pid)]
        if not dead and len(model.workers) >= model.min_workers:
            self.without.pop(key, None)
            return
        since = self.without.setdefault(key, self.clock())
        if self.clock() - since < GIVEN_UP:
            return
        logger.warning("%s %s has lost a worker for good: it gets %d new ones", *key, model.min_workers)
        self.without.pop(key)
        try:
            with Client.of_state(known) as client:
                client.scale(*key, 0)
                client.scale(*key, max(1, model.min_workers))
        except ClientError as error:
            logger.error("%s %s gets no workers: %s", *key, error)

    def _queue(self, known: ServerState, model: ModelStatus) -> None:
        """Send an image after what waits; where it does not come back, end the workers that hold it up."""
        key = (model.name, model.version)
        if key not in self.probes:
            if model.pending and (image := self._image(*key)):
                self.probes[key] = (self.clock(), self.pool.submit(_ask, known, *key, image))
            return
        since, probe = self.probes[key]
        if probe.done():
            del self.probes[key]
        elif self.clock() - since > STUCK:
            del self.probes[key]
            pids = [each.pid for each in model.workers if _runs(each.pid)]
            logger.warning("the queue of %s %s does not move: its workers are ended (%s)", *key, pids)
            for pid in pids:
                psutil.Process(pid).kill()

    def _image(self, name: str, version: str) -> bytes:
        """Return an image that a version can answer; nothing where its archive has none."""
        if (name, version) not in self.images:
            path = model_store.path_of(name, version, self.root / model_store.FOLDER)
            try:
                golden = Archive(name, version, path).golden()
            except ArchiveError:
                golden = []
            self.images[name, version] = golden[0].image if golden else b""
        return self.images[name, version]


def _ask(known: ServerState, name: str, version: str, image: bytes) -> None:
    """Wait for any answer: also one that says that the queue is full, since then it moves or fails by itself."""
    try:
        with Client.of_state(known, deadline=STUCK * 2) as client:
            client.predict(image, name, version)
    except ClientError:
        pass


def _runs(pid: int) -> bool:
    try:
        return pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _log(root: Path) -> None:
    (root / logs.FOLDER).mkdir(exist_ok=True)
    file = logging.FileHandler(root / logs.FOLDER / LOG)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=Console(), show_path=False), file]
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Watch until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.watch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    root = Path.cwd()
    _log(root)
    watch = Watch(root)
    running = state.running(root)
    logger.info("watching %s", running.inference if running else "for a server to be started here (make serve)")
    try:
        while True:
            watch.look()
            time.sleep(EVERY)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
