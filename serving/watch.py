"""Watch the server of this directory: repair dead or hanging parts, and log each repair, until interrupted.

    python -m serving.watch
    python -m serving.watch --rollback    roll a version back if an alarm fires soon after its deployment
    python -m serving.watch --fleet gs://bucket/fleet    serve what all nodes of a fleet should serve

A front end that has ended, or does not answer, is restarted with only the versions of model_store/live.json. A model
whose workers TorchServe has given up gets new ones. Workers with a stalled queue are killed, and TorchServe replaces
them: idle ones after 8 seconds, others 8 seconds after the model's responseTimeout, at which TorchServe ends them
itself. A default version that differs from the recorded one, as after a killed deployment, is set back. A server that
was stopped stays stopped. Repairs are printed and written to logs/watch.log, as are workers that TorchServe has
replaced, and a stop or a start by another process. The exporter of metrics (`monitoring.exporter`) runs beside it, and
with --rollback `serving.rollout.guard`.
"""

import argparse
import contextlib
import logging
import logging.handlers
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.logging import RichHandler

from serving import server
from serving.client import Client, ClientError, ModelStatus, Unreachable
from serving.errors import ServingError
from serving.fleet import agent
from serving.fleet.desired import FleetError
from serving.fleet.shared_document import AddressError
from serving.host import lock, logs, processor, state
from serving.host.state import ServerState
from serving.lifecycle import exporter
from serving.lifecycle.backoff import Backoff
from serving.lifecycle.loader import Loader
from serving.lifecycle.readiness import Version
from serving.lifecycle.repairs import Repairs
from serving.lifecycle.stall import Stall
from serving.rollout import guard
from serving.store.live import FILE, Live
from serving.store.signature import SignatureError

LOG, LARGEST = "watch.log", 10_000_000  # bytes
INTERVAL = 0.5  # seconds between two checks
PING_LIMIT = 2.0  # seconds for an answer to a ping
DESCRIPTION_LIMIT = 10.0  # seconds for the description of a version
NO_MANAGEMENT = 30.0  # seconds until a front end without answers on its management address counts as dead
NO_ANSWER = 6.0  # seconds until a front end without any answers counts as dead
GIVEN_UP = 6.0  # seconds that a worker may have no process: TorchServe's first pauses are 1, 1, 2 and 3
STALL_LIMIT = 8.0  # seconds that workers may be idle with a stalled queue, or compute beyond their time-out
MAX_PAUSE_S = 60.0  # largest pause in seconds between attempts to start a server,
FIRST_WAIT, LONGEST_WAIT = 10.0, 3600.0  # and pauses between attempts to load a version
# A metric of each version that grows with every answer.
COUNTED = "ts_inference_latency_microseconds"
ANSWERED = re.compile(rf'^{COUNTED}\{{.*model_name="(.+?)",model_version="(.+?)".*\}} (\S+)', re.M)

logger = logging.getLogger("serving.watch")


class Watch:
    """Checks one server repeatedly; its repairs depend on the earlier checks."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.root, self.clock = root.resolve(), clock
        self.answered = self.described = clock()
        self.client: tuple[tuple[int, int], Client] | None = None  # with the pid and start time of its server
        self.starts = Backoff(2 * INTERVAL, MAX_PAUSE_S, clock)  # of a server that fails to start
        self.loads = Backoff(FIRST_WAIT, LONGEST_WAIT, clock)  # of live versions that are not served
        self.loader = Loader(self.root)
        self.repairs = Repairs(self.root)
        running = state.running(self.root)
        self.server = (running.pid, running.created) if running else None  # pid and start time
        self.processes: dict[tuple[str, str, str], int] = {}  # of each worker, by model, version and its id
        self.without: dict[Version, float] = {}  # time at which a version's worker lost its process
        self.replaced: dict[Version, Backoff] = {}  # of versions that got new workers in place of all of theirs
        self.stalls: dict[Version, Stall] = {}  # of the versions with a stalled queue

    def close(self) -> None:
        """Close the connections, and cancel the loads under way."""
        self.loader.close()
        self._forget()

    def _forget(self) -> None:
        if self.client is not None:
            self.client[1].close()
            self.client = None

    def look(self) -> None:
        """Check once, and repair."""
        server_state = ServerState.read(self.root)
        self._name_server(server_state)
        if server_state is None or server_state.is_starting_or_stopping:  # None: stopped, or never started
            self.answered = self.described = self.clock()
            return
        front = server_state.process()
        if front is None:
            self._start(server_state, "the front end has ended")
            return
        client = self._client(server_state)
        try:
            self._answers(client)
            loading = self.loader.versions  # before the check: versions loaded during it count next time
            statuses = [status for name in client.models() for status in client.versions(name)]
        except Unreachable as error:
            if self._counts_as_dead():
                self._end(front)
                self._start(server_state, f"the front end does not answer ({error})")
            return
        self.described = self.clock()
        self._repair(client, server_state, statuses, loading)

    def _counts_as_dead(self) -> bool:
        """Return whether a front end has not answered for too long."""
        if self.answered > self.described:
            # It answers pings. With GPUs, TorchServe runs nvidia-smi for each worker that it describes, which is slow.
            return self.clock() - self.described > NO_MANAGEMENT
        return self.clock() - self.answered > NO_ANSWER

    def _repair(
        self, client: Client, server_state: ServerState, statuses: list[ModelStatus], loading: frozenset[Version]
    ) -> None:
        """Repair the versions of a front end that answers, except the workers of those under way (`loading`)."""
        for name, version in server.finish(server_state, client, self.root):
            logger.warning("%s %s was loaded by a start that was killed: recorded as live", name, version)
        self._name_replaced(statuses)
        for status in statuses:
            if (status.name, status.version) not in loading:
                self._workers(client, server_state, status)
        self._queues(server_state, statuses)
        self._defaults(client, statuses)
        self._missing(server_state, statuses, loading)

    def _name_server(self, server_state: ServerState | None) -> None:
        """Log that another process than this watcher stopped the server or started one."""
        if server_state is None and self.server is not None:
            logger.info("the server was stopped: waiting until one is started here (make serve)")
            self.server = None
        elif server_state and not server_state.is_starting_or_stopping and server_state.process() is not None:
            if self.server != (server_state.pid, server_state.created):
                logger.info("a server was started here: watching %s", server_state.inference)
            self.server = server_state.pid, server_state.created

    def _name_replaced(self, statuses: list[ModelStatus]) -> None:
        """Log the workers that TorchServe has replaced."""
        processes = {
            (model.name, model.version, worker.id): worker.pid for model in statuses for worker in model.workers
        }
        for key, pid in processes.items():
            before = self.processes.get(key, 0)
            if pid > 0 and before > 0 and pid != before:
                logger.warning("a worker of %s %s has ended (process %d): replaced by %d", *key[:2], before, pid)
            if pid <= 0:
                processes[key] = before  # between two processes
        self.processes = processes

    def _client(self, server_state: ServerState) -> Client:
        """Return a client of this server, the same one as long as it runs."""
        key = server_state.pid, server_state.created
        if self.client is None or self.client[0] != key:
            self._forget()
            self.client = key, Client.of_state(server_state, deadline=DESCRIPTION_LIMIT)
        return self.client[1]

    def _answers(self, client: Client) -> None:
        """Check that the front end answers, with any status.

        Raises:
            Unreachable: it does not.
        """
        try:
            client.ping(deadline=PING_LIMIT)
        except Unreachable:
            raise
        except ClientError:
            pass
        self.answered = self.clock()

    @staticmethod
    def _end(front: psutil.Process) -> None:
        """Kill a front end that does not react to signals."""
        with contextlib.suppress(psutil.Error):
            front.kill()
            psutil.wait_procs([front], timeout=5)

    def _start(self, ended: ServerState, reason: str) -> None:
        now = ServerState.read(self.root)
        same = now is not None and (now.pid, now.created) == (ended.pid, ended.created)
        if not self.starts.is_due() or now is None or now.is_starting_or_stopping or not same:
            return
        if ServerState.is_to_stay_stopped(self.root):
            return
        logger.warning("%s: starting the server again", reason)
        start_time = self.clock()
        try:
            config = Path(ended.config) if ended.config else None
            started = server.start(
                root=self.root, config=config, offset=ended.offset, access_log=ended.access_log, restore=True
            )
            logger.warning("the server runs again after %.1f s", self.clock() - start_time)
            self.repairs.add("front_end")
            for warning in started.left_out:
                logger.error("%s", warning)
            self.starts.reset()
            self.server = started.state.pid, started.state.created
        except (ServingError, OSError, psutil.Error) as error:
            self.starts.fail()
            logger.error("the server does not start: %s", str(error).splitlines()[0])
        finally:  # also after an interrupt: the next watcher retries, unless the server was stopped on purpose
            if ServerState.read(self.root) is None and not ServerState.is_to_stay_stopped(self.root):
                ended.write(self.root)
        self.answered = self.described = self.clock()
        self.without.clear()
        self.replaced.clear()
        self.stalls.clear()
        self.processes.clear()

    def _defaults(self, client: Client, statuses: list[ModelStatus]) -> None:
        """Set back a default that differs from the recorded one, unless a deployment runs."""
        ready = {(status.name, status.version) for status in statuses if status.ready}
        for name, model in Live.read(self.root).models.items():
            if (name, model.version) not in ready or client.describe(name).version == model.version:
                continue
            with contextlib.suppress(lock.Held), lock.deploying(self.root):
                if Live.read(self.root).models.get(name) == model:
                    client.set_default(name, model.version)
                    logger.warning("%s %s is the default again, as recorded in %s", name, model.version, FILE)
                    self.repairs.add("default")

    def _missing(self, server_state: ServerState, statuses: list[ModelStatus], loading: frozenset[Version]) -> None:
        """Load live versions that did not load when the server started: the cause may be gone by now."""
        served = {(status.name, status.version) for status in statuses} - loading
        live = {(name, model.version) for name, model in Live.read(self.root).models.items()}
        if not live - served:
            self.loads.reset()
            return
        if not self.loads.is_failing():
            names = ", ".join(" ".join(version) for version in sorted(live - served))
            logger.warning("%s should be live and is not served: retrying with growing pauses", names)
            self.loads.fail()
        if not loading and self.loads.is_due():
            self.loader.load(server_state, sorted(live - served), ended=self.loads.fail)

    def _workers(self, client: Client, server_state: ServerState, model: ModelStatus) -> None:
        """Give a version new workers if TorchServe does not restart them."""
        key, count = (model.name, model.version), model.min_workers or server_state.workers
        alive = [worker for worker in model.workers if worker.status == "READY" or _runs(worker.pid)]
        if len(alive) >= count:
            self.without.pop(key, None)
            self.replaced.pop(key, None)
            self._drop_surplus(client, model, count)
            return
        since = self.without.setdefault(key, self.clock())
        # On a busy machine new workers take longer than that to have a process: replaced again, they would never start.
        replaced = self.replaced.setdefault(key, Backoff(2 * GIVEN_UP, MAX_PAUSE_S, self.clock))
        if self.clock() - since < GIVEN_UP or not replaced.is_due() or self._is_being_deployed(key):
            return
        if not alive:
            replaced.fail()
        # No immediate retry of workers that do not start: they take cores from those that answer.
        self.without[key] = self.clock() + (MAX_PAUSE_S if alive else 0.0)
        new = count - len(alive)
        if alive and len(model.workers) + new > 2 * count:
            return
        logger.warning("%s %s lost a worker that TorchServe does not restart: starting %d new", *key, new)
        self.repairs.add("workers")
        # TorchServe still lists the workers that it gave up. Scaling to 0 removes them, but ends the ones alive too.
        limit = len(model.workers) + new if alive else 0
        try:
            client.scale(*key, limit)
            client.scale(*key, count, max_workers=limit or count)
        except ClientError as error:
            logger.error("%s %s: no new workers: %s", *key, error)

    def _is_being_deployed(self, key: Version) -> bool:
        """Return whether a deployment starts the workers of a version, slowly perhaps: it looks after them itself."""
        live = Live.read(self.root).models.get(key[0])
        if live is not None and key[1] in (live.version, live.previous):
            return False
        try:
            with lock.deploying(self.root):
                return False
        except lock.Held:
            return True

    @staticmethod
    def _drop_surplus(client: Client, model: ModelStatus, count: int) -> None:
        """Drop the workers beyond `count` if the first ones are READY: TorchServe has restarted one after all."""
        if len(model.workers) > count and all(worker.status == "READY" for worker in model.workers[:count]):
            client.scale(model.name, model.version, count)

    def _queues(self, server_state: ServerState, statuses: list[ModelStatus]) -> None:
        """Kill the workers of a version with a stalled queue: they neither answer nor compute."""
        waiting = {(status.name, status.version): status for status in statuses if status.pending}
        self.stalls = {key: stall for key, stall in self.stalls.items() if key in waiting}
        answered = _answered(server_state) if waiting else None
        if answered is None:
            return
        for key, model in waiting.items():
            # Requests that name no version are counted for "default".
            so_far = answered.get(key, 0.0) + answered.get((model.name, "default"), 0.0)
            if self._stalls(model, so_far):
                del self.stalls[key]
                self._end_workers(model)
                self.repairs.add("queue")

    def _stalls(self, model: ModelStatus, answered: float) -> bool:
        """Return whether a version's workers are past their time limit; TorchServe limits those that load."""
        now, key = self.clock(), (model.name, model.version)
        workers = frozenset(worker.pid for worker in model.workers if worker.status == "READY" and _runs(worker.pid))
        computed = sum(processor.seconds(pid) for pid in workers)
        stall = self.stalls.get(key)
        if stall is None or not stall.goes_on(answered, workers):
            stall = self.stalls[key] = Stall.start(now, answered, workers, computed)
        stall.see(now, computed, STALL_LIMIT)
        return bool(workers) and stall.is_over(now, STALL_LIMIT, model.response_timeout)

    @staticmethod
    def _end_workers(model: ModelStatus) -> None:
        pids = [worker.pid for worker in model.workers if worker.status == "READY" and _runs(worker.pid)]
        logger.warning("the queue of %s %s is stalled: killing its workers (%s)", model.name, model.version, pids)
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()


def _answered(server_state: ServerState) -> dict[Version, float] | None:
    """Return a number for each version that grows with every answer, None without metrics."""
    try:
        text = httpx.get(f"{server_state.metrics}/metrics", timeout=PING_LIMIT, trust_env=False).text
    except httpx.HTTPError:
        return None
    if COUNTED not in text:  # the name is listed before the first answer, unless metrics are sent elsewhere
        return None
    return {(name, version): float(value) for name, version, value in ANSWERED.findall(text)}


def _runs(pid: int) -> bool:
    try:
        return pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _log(root: Path) -> None:
    (root / logs.FOLDER).mkdir(exist_ok=True)
    file = logging.handlers.RotatingFileHandler(root / logs.FOLDER / LOG, maxBytes=LARGEST, backupCount=1)
    whole = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    file.setFormatter(whole)
    console: logging.Handler = RichHandler(console=Console(markup=False, emoji=False), show_path=False)
    if not sys.stdout.isatty():  # a file needs the time in each line, and whole lines
        console = logging.StreamHandler(sys.stdout)
        console.setFormatter(whole)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[console, file])
    logging.getLogger("httpx").setLevel(logging.WARNING)


def main() -> int:
    """Watch until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.watch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rollback", action="store_true", help="roll a version back if an alarm of it fires")
    parser.add_argument(
        "--rollback-minutes", type=float, default=guard.MINUTES, metavar="MINUTES",
        help="this long after its deployment (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--fleet", metavar="ADDRESS", help="serve what is desired there, and take part in deployments")
    parser.add_argument("--node", metavar="NAME", help="its name in the fleet (default: host and folder)")
    arguments = parser.parse_args()
    if arguments.rollback and arguments.fleet:
        parser.error("a version that is rolled back on one server is not the fleet's: leave ROLLBACK=1 or FLEET= out")
    if arguments.node and not arguments.fleet:
        parser.error("--node is a name in a fleet: name that with FLEET=")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    root = Path.cwd()
    _log(root)
    watch = Watch(root)
    running = state.running(root)
    logger.info("watching %s", running.inference if running else "for a server to be started here (make serve)")
    try:
        with (
            lock.watching(root),
            exporter.beside(root),
            guard.beside(root, arguments.rollback_minutes if arguments.rollback else None),
            agent.beside(root, arguments.fleet, arguments.node),
        ):
            while True:
                try:
                    watch.look()
                except (ServingError, OSError, psutil.Error) as error:  # keep watching
                    logger.error("%s", error)
                time.sleep(INTERVAL)
    except KeyboardInterrupt:
        return 0
    except (AddressError, FleetError, SignatureError, lock.Held) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        watch.close()


if __name__ == "__main__":
    sys.exit(main())
