"""Watch the server that was started here: repair what dies or hangs, and say so, until it is interrupted.

    python -m serving.watch

A front end that has ended, or does not answer, is started anew, with what model_store/live.json says is live, and that
alone. A model whose workers TorchServe has given up gets new ones. Workers whose queue does not move are ended, which
TorchServe answers with others. A default version that is not the one recorded, as a deployment that was killed leaves
it, is set back. What is done is printed and written to logs/watch.log. A server that was stopped stays stopped.
"""

import argparse
import contextlib
import logging
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import httpx
import psutil
from rich.console import Console
from rich.logging import RichHandler

from serving import lock, logs, server, state
from serving.client import Client, ClientError, ModelStatus, Unreachable
from serving.java import JavaError
from serving.live import Live
from serving.model_store import ArchiveError
from serving.ports import PortError
from serving.readiness import Version
from serving.server import ServerError
from serving.state import ServerState

LOG = "watch.log"
EVERY = 0.5  # seconds between two looks
LOOK = 2.0  # seconds that an answer to one may take
SILENT = 6.0  # seconds until a front end that runs and does not answer is taken for dead
GIVEN_UP = 6.0  # seconds that a worker may have no process: TorchServe's first pauses are 1, 1, 2 and 3
STUCK = 8.0  # seconds until a queue of which nothing is answered is taken for stuck
LONGEST = 60.0  # seconds between two attempts to start a server that does not start
# What TorchServe has answered so far, of each version; it grows with every answer.
ANSWERED = re.compile(r'^ts_inference_latency_microseconds\{.*model_name="(.+?)",model_version="(.+?)".*\} (\S+)', re.M)

logger = logging.getLogger("serving.watch")


class Watch:
    """Looks at one server again and again; what it has seen so far decides what it does."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.root, self.clock = root.resolve(), clock
        self.answered = clock()
        self.without: dict[Version, float] = {}  # since when a version has a worker without a process
        self.moved: dict[Version, tuple[float, float]] = {}  # since when a version has answered so much
        self.again, self.pause = 0.0, EVERY  # when a server that did not start may be started again

    def look(self) -> None:
        """Look once, and repair what is wrong."""
        known = ServerState.read(self.root)
        if known is None or known.in_hand:  # stopped, never started, or somebody is at it
            self.answered = self.clock()
            return
        if known.process() is None:
            self._start(known, "the front end has ended")
            return
        try:
            with Client.of_state(known, deadline=LOOK) as client:
                names = client.models()
                found = [each for name in names for each in client.versions(name)]
                self._defaults(client, found)
        except Unreachable as error:
            if self.clock() - self.answered > SILENT:
                self._start(known, f"the front end does not answer ({error})")
            return
        self.answered = self.clock()
        for each in found:
            self._workers(known, each)
        self._queues(known, found)

    def _start(self, known: ServerState, why: str) -> None:
        now = ServerState.read(self.root)
        if self.clock() < self.again or now is None or now.in_hand or now.pid != known.pid:
            return
        logger.warning("%s: starting the server again", why)
        began = self.clock()
        try:
            server.stop(root=self.root)
            config = Path(known.config) if known.config else None
            live = [f"{name}={each.version}" for name, each in Live.read(self.root).models.items()]
            started = server.start(
                live, root=self.root, config=config, offset=known.offset, access_log=known.access_log
            )
            logger.warning("the server is back after %.1f s", self.clock() - began)
            for each in started.left_out:
                logger.error("%s", each)
            self.pause = EVERY
        except (ServerError, ArchiveError, PortError, JavaError, ClientError, OSError, psutil.Error) as error:
            if ServerState.read(self.root) is None:
                known.write(self.root)  # so that it is tried again
            self.pause = min(LONGEST, 2 * self.pause)
            logger.error("the server does not start: %s", str(error).splitlines()[0])
        self.answered = self.clock()
        self.again = self.clock() + self.pause
        self.without.clear()
        self.moved.clear()

    def _defaults(self, client: Client, found: list[ModelStatus]) -> None:
        """Set back a default that is not the one recorded, unless somebody deploys just now."""
        ready = {(each.name, each.version) for each in found if each.ready}
        for name, each in Live.read(self.root).models.items():
            if (name, each.version) not in ready or client.describe(name).version == each.version:
                continue
            with contextlib.suppress(lock.Held), lock.alone(self.root):
                if Live.read(self.root).models.get(name) == each:
                    client.set_default(name, each.version)
                    logger.warning("a deployment was cut short: %s %s is the default again", name, each.version)

    def _workers(self, known: ServerState, model: ModelStatus) -> None:
        """Give a version new workers where TorchServe does not start them again."""
        key, wanted = (model.name, model.version), model.min_workers or known.workers
        dead = [each for each in model.workers if each.status != "READY" and not _runs(each.pid)]
        if not dead and len(model.workers) >= wanted:
            self.without.pop(key, None)
            return
        since = self.without.setdefault(key, self.clock())
        if self.clock() - since < GIVEN_UP:
            return
        logger.warning("%s %s has lost a worker for good: it gets %d new ones", *key, wanted)
        self.without.pop(key)
        try:
            with Client.of_state(known) as client:
                client.scale(*key, 0)
                client.scale(*key, wanted)
        except ClientError as error:
            logger.error("%s %s gets no workers: %s", *key, error)

    def _queues(self, known: ServerState, found: list[ModelStatus]) -> None:
        """End the workers of a version where requests wait and none is answered."""
        waiting = {(each.name, each.version): each for each in found if each.pending}
        self.moved = {key: each for key, each in self.moved.items() if key in waiting}
        if not waiting:
            return
        answered = _answered(known)
        for key, model in waiting.items():
            # Who names no version is counted for "default".
            so_far = answered.get(key, 0.0) + answered.get((model.name, "default"), 0.0)
            since, before = self.moved.setdefault(key, (self.clock(), so_far))
            if so_far != before:
                self.moved[key] = (self.clock(), so_far)
            elif self.clock() - since > STUCK:
                del self.moved[key]
                pids = [each.pid for each in model.workers if _runs(each.pid)]
                logger.warning("the queue of %s %s does not move: its workers are ended (%s)", *key, pids)
                for pid in pids:
                    with contextlib.suppress(psutil.Error):
                        psutil.Process(pid).kill()


def _answered(known: ServerState) -> dict[Version, float]:
    """Return a number for each version that grows with every answer; none where the metrics are not to be had."""
    try:
        text = httpx.get(f"{known.metrics}/metrics", timeout=LOOK, trust_env=False).text
    except httpx.HTTPError:
        return {}
    return {(name, version): float(value) for name, version, value in ANSWERED.findall(text)}


def _runs(pid: int) -> bool:
    try:
        return pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
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
            try:
                watch.look()
            except (psutil.Error, OSError, ArchiveError, ClientError) as error:  # a watcher goes on watching
                logger.error("%s", error)
            time.sleep(EVERY)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
