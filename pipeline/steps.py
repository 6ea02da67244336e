"""Run the steps from images to a served model in order, and record the time of each.

Each step is the command that a user would type, in a separate process that shows its progress; it skips itself if
nothing has changed. This module orders, times and names the steps, and holds the two that `make up` and `make demo`
share: building the archive and serving it. It imports nothing that is slow to import.
"""

import dataclasses
import json
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.text import Text

from handlers import atomic
from handlers.run_folder import RUNS, RunFolder
from serving import archive, deploy, server
from serving.client import Client, ModelStatus, NotFound
from serving.console import table_console
from serving.errors import ServingError
from serving.host import lock, ports, state
from serving.lifecycle.deployment import DeployLimits
from serving.lifecycle.launch import CONFIG
from serving.store import model_config, model_store, package
from serving.store.live import Live
from serving.store.model_store import Archive, ArchiveError
from training.data.records import DatasetError


class StepError(Exception):
    """A step cannot be done; the message says what to do."""


class StepFailed(StepError):
    """The command of a step has failed and has printed the reason."""


FAILURES = (StepError, ServingError, DatasetError, OSError)
DEPLOY_LIMITS = DeployLimits(watch=1.0)
PATIENCE = 1800.0  # seconds to wait for other processes that start a server or deploy
# Seconds to wait for a version of which no worker loads: TorchServe restarts it after 1, 1, 2, 3, 5, 8, 13 ... seconds.
READY_LIMIT = 60.0
INTERVAL = 0.5  # seconds between two checks


class Steps:
    """Runs steps one after the other in `root`; `seconds` has the time of each, and `record` is the file for them."""

    def __init__(self, title: str, *, root: Path, record: Path, console: Console | None = None) -> None:
        self.title = title
        self.root = root
        self.record = record
        self.console = console or table_console()
        self.seconds: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        self._start_time = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Return the seconds since the first step was about to start."""
        return time.perf_counter() - self._start_time

    @contextmanager
    def step(self, name: str, says: str) -> Iterator[None]:
        """Announce and time the work inside."""
        self.console.print(Text.assemble((self.title, "bold"), f" [{self.elapsed:.0f} s] {says}"))
        start_time = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - start_time, 3)
            self.write()

    def run(self, name: str, says: str, module: str, *arguments: str) -> None:
        """Run `python -m module arguments` in `root`, its output passed through.

        Raises:
            StepFailed: it exits with anything but 0.
        """
        with self.step(name, says):
            process = subprocess.run([sys.executable, "-m", module, *arguments], cwd=self.root, check=False)
        if process.returncode:
            raise StepFailed(name)

    def write(self, **facts: object) -> None:
        """Write the record: seconds of each step so far, those since the start, and `results`."""
        self.facts |= facts
        document = {"title": self.title, "steps": self.seconds, "seconds": round(self.elapsed, 3), **self.facts}
        atomic.write_json(self.record, document)


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """A model that is served: its archive and the address of the server's inference API."""

    archive: Archive
    address: str


def exclusion(file: str) -> tuple[str, ...]:
    """Return the setting that leaves out the images that a CSV file names; none without a file."""
    return (f"exclude={Path(file).absolute()}",) if file else ()


def guarded(work: Callable[[], object]) -> int:
    """Do `work` as a command does: return its exit status, with one line on the error stream if it fails."""
    try:
        work()
    except StepFailed:
        return 1
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted. Run the same command again: finished steps are skipped", file=sys.stderr)
        return 130
    return 0


def is_current(model_archive: Archive, run: Path) -> bool:
    """Return whether an archive equals a new one of `run`: the same files, handlers and settings."""
    files = package.sources(RunFolder(run).model)
    try:
        with zipfile.ZipFile(model_archive.path) as packed:
            sums = {
                member.filename: member.CRC
                for member in packed.infolist()
                if member.filename not in package.GENERATED_FILES
            }
        same = sums == {name: zlib.crc32(path.read_bytes()) for name, path in files.items()}
        sidecar = json.loads(model_archive.sidecar.read_text())
        return same and bool(sidecar["model_config"] == model_config.configure(sidecar["overrides"]))
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, ArchiveError):
        return False


def holds(model_archive: Archive, model: Path) -> bool:
    """Return whether an archive holds this very file of a network."""
    try:
        with zipfile.ZipFile(model_archive.path) as packed:
            return model.is_file() and zlib.crc32(model.read_bytes()) == packed.getinfo(model.name).CRC
    except (OSError, zipfile.BadZipFile, KeyError):
        return False


def next_version(name: str, store: Path) -> str:
    """Return the version after the newest of that name in the store: 1.0, 2.0 and so on."""
    versions = [candidate.version for candidate in model_store.archives(store) if candidate.name == name]
    return f"{int(versions[-1].split('.')[0]) + 1}.0" if versions else "1.0"


def build_archive(name: str, root: Path, *, run: Path | None = None, rehearse: bool = True) -> tuple[Archive, bool]:
    """Return the live or the newest archive of `name` if it is up to date with the run, else a new one; and whether it
    is new. The run is `runs/<name>` by default.

    Raises:
        ArchiveError: the run is not complete, or a worker could not serve it.
    """
    store, run = root / model_store.FOLDER, run or root / RUNS / name
    archives = [candidate for candidate in model_store.archives(store) if candidate.name == name]
    live = Live.read(root).models.get(name)
    # The live archive is kept, also if there are newer ones of the same run.
    live_archives = [candidate for candidate in archives if live is not None and candidate.version == live.version]
    candidates = [*live_archives, *archives[-1:]]
    for candidate in candidates:
        if is_current(candidate, run):
            return candidate, False
    # Keep the settings of the live archive for the next one; those of a trial count only if none is live.
    overrides = candidates[0].provenance().get("overrides", []) if candidates else []
    version = next_version(name, store)
    return archive.build(name, version, run=run, store=store, overrides=overrides, rehearse=rehearse), True


def check_ports(root: Path) -> None:
    """Check that a server can be started in `root`, unless one runs there or another process starts or stops it.

    Raises:
        ServerError: there is no config.properties.
        PortError: a port is taken, or cannot be one.
    """
    server_state = state.ServerState.read(root)
    if server_state is None or (server_state.process() is None and not server_state.is_starting_or_stopping):
        server.addresses_to_use(root / CONFIG, ports.offset_of_environment())


def serve(model_archive: Archive, root: Path, say: Callable[[str], None] = print) -> tuple[Served, bool]:
    """Serve an archive: deploy it to the server of `root` if one runs, else start one.

    Other live models stay live. Waits while other commands start a server or deploy, and stops no running server.
    Returns its address, and whether it was not served already; `say` gets the reasons of waiting.

    Raises:
        ServerError, PortError, JavaError, ArchiveError, DeployError: it cannot be started.
        Held: other commands have not ended within `PATIENCE`.
        StepError: it is live and does not get READY.
    """
    deadline, last_reason = time.monotonic() + PATIENCE, ""
    while True:
        try:
            return _serve(model_archive, root, say)
        except (lock.Held, server.RunsAlready) as error:
            if time.monotonic() > deadline:
                raise
            if isinstance(error, lock.Held) and str(error) != last_reason:
                say(last_reason := str(error))
            time.sleep(INTERVAL)


def _serve(model_archive: Archive, root: Path, say: Callable[[str], None]) -> tuple[Served, bool]:
    """Serve an archive, or raise Held while another process starts, stops or deploys."""
    server_state = state.ServerState.read(root)
    if server_state is not None and server_state.is_starting_or_stopping:
        raise lock.Held("a server is being started or stopped here: wait for it (make status)")
    name, version = model_archive.name, model_archive.version
    if server_state is None or server_state.process() is None:
        selection = [f"{name}={version}"]
        started = server.start(selection, root=root, offset=ports.offset_of_environment(), restore=True)
        for warning in started.left_out:
            say(f"warning: {warning}")
        return Served(model_archive, started.state.inference), True
    served = Served(model_archive, server_state.inference)
    with Client.of_state(server_state) as client:
        server.finish(server_state, client, root)
        model = _live_model(client, name, root)
        if model is not None and model.version == version:
            if not model.ready:
                _wait(client, model, server_state.workers, root, say)
            return served, not model.ready
    # The build has rehearsed it.
    deploy.deploy(name, version, root=root, limits=DEPLOY_LIMITS, verify=False, log=lambda _: None)
    return served, True


def _live_model(client: Client, name: str, root: Path) -> ModelStatus | None:
    """Return the default version of a model if it is also recorded as live."""
    live = Live.read(root).models.get(name)
    try:
        default = client.describe(name)
    except NotFound:
        return None
    return default if live is not None and live.version == default.version else None


def _wait(client: Client, model: ModelStatus, workers: int, root: Path, say: Callable[[str], None]) -> None:
    """Wait until a live version is READY again; start new workers if TorchServe has given them up."""
    key = model.name, model.version
    say(f"{model.name} {model.version} is live and not READY: waiting for it")
    if model.workers and _gets_ready(client, key):
        return
    model = client.describe(*key)
    if not _loads(model) and not any(worker.status == "READY" for worker in model.workers):
        with lock.deploying(root):
            client.scale(*key, 0)
            client.scale(*key, model.min_workers or workers)
            if _gets_ready(client, key):
                return
    raise StepError(
        f"{model.name} {model.version} is live and does not get READY: logs/model_log.log says why. "
        "The server and its other models go on; make watch tries it again"
    )


def _gets_ready(client: Client, version: tuple[str, str]) -> bool:
    """Wait until a version is READY: `READY_LIMIT` seconds, or as long as its workers may load."""
    start_time = time.monotonic()
    while not (model := client.describe(*version)).ready:
        if time.monotonic() - start_time > (max(READY_LIMIT, model.startup_timeout) if _loads(model) else READY_LIMIT):
            return False
        time.sleep(INTERVAL)
    return True


def _loads(model: ModelStatus) -> bool:
    """Return whether a worker's process runs that is not READY yet."""
    return any(
        worker.status != "READY" and worker.pid > 0 and psutil.pid_exists(worker.pid) for worker in model.workers
    )
