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

import psutil
from rich.console import Console
from rich.text import Text

from handlers import atomic
from handlers.run_folder import RUNS, RunFolder
from serving import archive, deploy, server
from serving.client import Client, ModelStatus, NotFound
from serving.errors import ServingError
from serving.host import lock, ports, state
from serving.lifecycle.deployment import Limits
from serving.lifecycle.launch import CONFIG
from serving.page import page
from serving.store import model_config, model_store, package
from serving.store.live import Live
from serving.store.model_store import Archive, ArchiveError
from training.data.records import DatasetError


class StepError(Exception):
    """A step cannot be done; the message says what to do."""


class StepFailed(StepError):
    """A step's own command has failed, and has said so itself: there is nothing to add to that."""


FAILURES = (StepError, ServingError, DatasetError, OSError)
WATCHED = Limits(watch=1.0)
PATIENCE = 1800.0  # seconds that others may take who start a server or deploy
# Seconds until a version is READY again of which no worker loads: TorchServe's pauses are 1, 1, 2, 3, 5, 8, 13 ...
AGAIN = 60.0
EVERY = 0.5  # seconds between two looks


class Steps:
    """Runs steps one after the other in `root`; `seconds` has the time of each, `record` is where they are written."""

    def __init__(self, title: str, *, root: Path, record: Path, console: Console | None = None) -> None:
        self.title = title
        self.root = root
        self.record = record
        self.console = console or page()
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Return the seconds since the first step was about to start."""
        return time.perf_counter() - self._began

    @contextmanager
    def step(self, name: str, says: str) -> Iterator[None]:
        """Announce and time the work inside."""
        self.console.print(Text.assemble((self.title, "bold"), f" [{self.elapsed:.0f} s] {says}"))
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - began, 3)
            self.write()

    def run(self, name: str, says: str, module: str, *arguments: str) -> None:
        """Run `python -m module arguments` in `root`, its output passed through.

        Raises:
            StepFailed: it exits with anything but 0.
        """
        with self.step(name, says):
            done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=self.root, check=False)
        if done.returncode:
            raise StepFailed(name)

    def write(self, **more: object) -> None:
        """Write the record: seconds of each step so far, those since the start, and `more`."""
        document = {"title": self.title, "steps": self.seconds, "seconds": round(self.elapsed, 3), **more}
        atomic.write_json(self.record, document)


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """Where a model is served: its archive and the address of the server's inference API."""

    archive: Archive
    address: str


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


def is_current(found: Archive, run: Path) -> bool:
    """Return whether an archive holds what `run` would give: its files, this code's handlers, settings as asked for."""
    files = package.sources(RunFolder(run).model)
    try:
        with zipfile.ZipFile(found.path) as packed:
            sums = {
                member.filename: member.CRC
                for member in packed.infolist()
                if member.filename not in package.GENERATED_FILES
            }
        same = sums == {name: zlib.crc32(path.read_bytes()) for name, path in files.items()}
        kept = json.loads(found.sidecar.read_text())
        return same and bool(kept["model_config"] == model_config.configure(kept["overrides"]))
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, ArchiveError):
        return False


def next_version(name: str, store: Path) -> str:
    """Return the version after the newest of that name in the store: 1.0, 2.0 and so on."""
    versions = [each.version for each in model_store.archives(store) if each.name == name]
    return f"{int(versions[-1].split('.')[0]) + 1}.0" if versions else "1.0"


def build_archive(name: str, root: Path, *, rehearse: bool = True) -> tuple[Archive, bool]:
    """Return the live or the newest archive of `name` if it is up to date with the run, else a new one; and whether it
    is new.

    Raises:
        ArchiveError: the run is not complete, or a worker could not serve it.
    """
    store, run = root / model_store.FOLDER, root / RUNS / name
    there = [each for each in model_store.archives(store) if each.name == name]
    live = Live.read(root).models.get(name)
    # The live archive is kept, also if there are newer ones of the same run.
    candidates = [*(each for each in there if live is not None and each.version == live.version), *there[-1:]]
    for each in candidates:
        if is_current(each, run):
            return each, False
    # Keep the settings of the live archive for the next one; those of a trial count only if none is live.
    asked = candidates[0].provenance().get("overrides", []) if candidates else []
    version = next_version(name, store)
    runs = root / RUNS
    return archive.build(name, version, runs=runs, store=store, overrides=asked, rehearse=rehearse), True


def check_ports(root: Path) -> None:
    """See that a server can be started in `root`, unless one runs there or another process starts or stops it.

    Raises:
        ServerError: there is no config.properties.
        PortError: a port is taken, or cannot be one.
    """
    known = state.ServerState.read(root)
    if known is None or (known.process() is None and not known.is_starting_or_stopping):
        server.addresses_to_use(root / CONFIG, ports.offset_of_environment())


def serve(found: Archive, root: Path, say: Callable[[str], None] = print) -> tuple[Served, bool]:
    """Serve an archive: deploy it to the server of `root` if one runs, else start one.

    Other live models stay live. Waits while other commands start a server or deploy, and stops no running server.
    Returns its address, and whether it was not served already; `say` gets the reasons of waiting.

    Raises:
        ServerError, PortError, JavaError, ArchiveError, DeployError: it cannot be started.
        Held: others have not ended within `PATIENCE`.
        StepError: it is live and does not get READY.
    """
    deadline, said = time.monotonic() + PATIENCE, ""
    while True:
        try:
            return _serve(found, root, say)
        except (lock.Held, server.RunsAlready) as error:
            if time.monotonic() > deadline:
                raise
            if isinstance(error, lock.Held) and str(error) != said:
                say(said := str(error))
            time.sleep(EVERY)


def _serve(found: Archive, root: Path, say: Callable[[str], None]) -> tuple[Served, bool]:
    """Serve an archive, or raise Held where others are at it."""
    known = state.ServerState.read(root)
    if known is not None and known.is_starting_or_stopping:
        raise lock.Held("a server is being started or stopped here: wait for it (make status)")
    if known is None or known.process() is None:
        wanted = [f"{found.name}={found.version}"]
        started = server.start(wanted, root=root, offset=ports.offset_of_environment(), restore=True)
        for each in started.left_out:
            say(f"warning: {each}")
        return Served(found, started.state.inference), True
    served = Served(found, known.inference)
    with Client.of_state(known) as client:
        server.finish(known, client, root)
        live = Live.read(root).models.get(found.name)
        try:
            default = client.describe(found.name)
        except NotFound:
            default = None
        if default is not None and live is not None and found.version == live.version == default.version:
            if not default.ready:
                _wait(client, default, known.workers, root, say)
            return served, not default.ready
    # It has been rehearsed when it was built.
    deploy.deploy(found.name, found.version, root=root, limits=WATCHED, verify=False, log=lambda _: None)
    return served, True


def _wait(client: Client, model: ModelStatus, workers: int, root: Path, say: Callable[[str], None]) -> None:
    """Wait until a version that is live is READY again; it gets new workers where TorchServe has given them up."""
    key = model.name, model.version
    say(f"{model.name} {model.version} is live and not READY: waiting for it")
    if model.workers and _gets_ready(client, key):
        return
    model = client.describe(*key)
    if not _loads(model) and not any(each.status == "READY" for each in model.workers):
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
    """Wait until a version is READY: `AGAIN` seconds, or as long as its workers may load."""
    began = time.monotonic()
    while not (model := client.describe(*version)).ready:
        if time.monotonic() - began > (max(AGAIN, model.startup_timeout) if _loads(model) else AGAIN):
            return False
        time.sleep(EVERY)
    return True


def _loads(model: ModelStatus) -> bool:
    """Return whether a process of it runs that is not READY yet."""
    return any(each.status != "READY" and each.pid > 0 and psutil.pid_exists(each.pid) for each in model.workers)
