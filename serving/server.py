"""Start, stop and look at TorchServe.

python -m serving.server start                     the newest version of every model in model_store/
python -m serving.server start fingers petals=1.0  these models
python -m serving.server status [--json]
python -m serving.server stop

One server runs in one directory: its logs and logs/server.json, key_file.json and model_store/ are relative to it.
SIGHTLINE_PORT_OFFSET=100 (or --port-offset 100) moves all ports of config.properties, so that a second directory can
have a server of its own.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from serving import java, model_store, ports, state
from serving.client import Client, ClientError, ModelStatus, NotFound
from serving.java import JavaError
from serving.model_store import Archive, ArchiveError
from serving.ports import PortError, Ports
from serving.shares import Shares
from serving.state import ServerState

CONFIG = Path("config.properties")
LOG_CONFIG = Path(__file__).parent / "log4j2.xml"
LOG_FILES = ("console.log", "ts_log.log", "model_log.log")
PID_FILE = ".model_server.pid"  # the launcher's, in its temporary folder


class ServerError(Exception):
    """The server cannot be started or stopped; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """A server whose workers are all READY."""

    state: ServerState
    models: list[ModelStatus]
    seconds: float


def start(
    wanted: Sequence[str] = (),
    *,
    root: Path,
    config: Path | None = None,
    offset: int = 0,
    timeout: float = 180.0,
    access_log: bool = False,
) -> Started:
    """Start TorchServe in `root` with the archives that `wanted` asks for, and return once every worker is READY.

    `wanted` holds `NAME` or `NAME=VERSION`; nothing means the newest version of every model in the store. `config` is
    the config.properties (that of `root` where None), whose ports are moved by `offset`; workers, threads and heap that
    it does not name follow from the machine (`serving.shares`). `timeout` is in seconds. `access_log` writes a line a
    request to logs/access_log.log.

    Raises:
        ServerError: one runs there already, or a worker does not load; the message ends with the log's last lines.
        ArchiveError, PortError, JavaError: what is needed is not there.
    """
    root = root.resolve()
    began = time.monotonic()
    if (running := state.running(root)) is not None:
        raise ServerError(f"a server runs here already (process {running.pid}, {running.inference}): stop it first")
    archives = model_store.select(wanted, root / model_store.FOLDER)
    for archive in archives:
        archive.check()
    config = config or root / CONFIG
    if not config.is_file():
        raise ServerError(f"{config.name} is not there: start in the repository's root, or name one with --config")
    text = config.read_text()
    listening = Ports.of_config(text).moved(offset)
    listening.check_free()
    logs = root / state.LOGS
    logs.mkdir(exist_ok=True)
    effective = logs / CONFIG.name
    shares = Shares.of_this_machine(len(archives))
    effective.write_text(
        f"{text}\n# Moved by {offset}\n{listening.properties()}# This machine\n{shares.properties(text)}"
    )
    offsets = {name: _size(logs / name) for name in LOG_FILES}
    started = _launch(root, effective, archives, listening, shares.environment() | _access_log(access_log))
    try:
        models = _wait_ready(started, archives, root, timeout)
    except BaseException as error:  # an interrupt too leaves no server behind
        lines = _last_lines(logs, offsets)
        stop(root=root)
        if isinstance(error, ServerError) and lines:
            raise ServerError(f"{error}\n{lines}") from error
        raise
    return Started(started, models, time.monotonic() - began)


def _access_log(wanted: bool) -> dict[str, str]:
    return {"SIGHTLINE_ACCESS_LOG": "info"} if wanted else {}


def _launch(
    root: Path, config: Path, archives: list[Archive], listening: Ports, variables: dict[str, str]
) -> ServerState:
    """Run TorchServe's launcher, which leaves the front end behind, and write down whose process that is."""
    found = java.find()
    # Sockets of workers, unpacked archives and the launcher's pid file go where no other server's are, and
    # not inside `root`: the path of a socket may have about 100 characters.
    temporary = tempfile.mkdtemp(prefix="sightline-")
    environment = {
        key: value for key, value in os.environ.items() if key not in ("JAVA_HOME", "PYTHONPATH", "TS_CONFIG_FILE")
    }
    environment |= {"TEMP": temporary, "TMPDIR": temporary, "LOG_LOCATION": str(root / state.LOGS), **variables}
    if found.home is not None:
        environment["JAVA_HOME"] = str(found.home)
    store = archives[0].path.parent
    command = [sys.executable, "-m", "ts.model_server", "--start", "--ncs", "--ts-config", str(config)]
    command += ["--log-config", str(LOG_CONFIG), "--model-store", str(store)]
    command += ["--models", *(f"{archive.name}={archive.path.name}" for archive in archives)]
    try:
        with open(root / state.LOGS / "console.log", "ab") as log:
            # A session of its own: what ends this terminal does not end the server.
            subprocess.run(
                command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, check=True,
            )  # fmt: skip
        process = psutil.Process(int((Path(temporary) / PID_FILE).read_text()))
        started = ServerState(
            pid=process.pid,
            created=process.create_time(),
            inference=listening.inference.url,
            management=listening.management.url,
            metrics=listening.metrics.url,
            key_file=str(root / state.KEY_FILE),
            temporary=temporary,
            models=[[archive.name, archive.version] for archive in archives],
        )
    except (OSError, ValueError, subprocess.CalledProcessError, psutil.Error) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ServerError(f"TorchServe did not start ({error}): see {state.LOGS}/console.log") from error
    started.write(root)
    return started


def _wait_ready(started: ServerState, archives: list[Archive], root: Path, timeout: float) -> list[ModelStatus]:
    """Return the models once each of their workers is READY; raise ServerError as soon as that cannot be any more."""
    deadline = time.monotonic() + timeout
    seen: dict[tuple[str, str], int] = {}  # the process that each worker had first
    with Client.of_state(started) as client:
        while True:
            if started.process() is None:
                raise ServerError("TorchServe ended while it started")
            statuses = [_status_of(client, archive) for archive in archives]
            models = [status for status in statuses if status is not None]
            if len(models) == len(archives) and all(status.ready for status in models):
                return models
            for status in models:
                for worker in status.workers:
                    # TorchServe starts a worker that died again and again; the first death is what is to be told.
                    key = (f"{status.name} {status.version}", worker.id)
                    if worker.pid > 0 and seen.setdefault(key, worker.pid) != worker.pid:
                        raise ServerError(f"a worker of {key[0]} does not load")
                    if key in seen and not psutil.pid_exists(seen[key]):
                        raise ServerError(f"a worker of {key[0]} does not load")
            if time.monotonic() > deadline:
                raise ServerError(f"no answer within {timeout:.0f} s that every worker is READY")
            time.sleep(0.1)


def _status_of(client: Client, archive: Archive) -> ModelStatus | None:
    """Return the state of one model, or None while the server does not answer yet.

    Raises:
        ServerError: the server answers and does not have the model: archives are loaded before it listens.
    """
    try:
        return client.describe(archive.name, archive.version)
    except NotFound as error:
        raise ServerError(f"TorchServe could not load {archive.path.name}") from error
    except ClientError:
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _last_lines(logs: Path, offsets: dict[str, int], count: int = 25) -> str:
    """Return the end of what was logged since `offsets`: by workers, or by the front end where those were silent."""
    for name in reversed(LOG_FILES):
        path = logs / name
        if not path.exists():
            continue
        with open(path, "rb") as file:
            file.seek(offsets[name] if offsets[name] <= _size(path) else 0)  # smaller: the file was rolled over
            lines = file.read().decode(errors="replace").splitlines()
        if lines:
            return "\n".join([f"--- last lines of {state.LOGS}/{name}", *lines[-count:]])
    return ""


def stop(*, root: Path) -> bool:
    """End the server that was started in `root`, and nothing else; return whether one ran."""
    root = root.resolve()
    known = ServerState.read(root)
    if known is None:
        return False
    process = known.process()
    if process is not None:
        state.end_tree(process)
        Path(known.key_file).unlink(missing_ok=True)  # its tokens open nothing any more
    shutil.rmtree(known.temporary, ignore_errors=True)
    ServerState.remove(root)
    return process is not None


def status(*, root: Path) -> tuple[ServerState, list[ModelStatus]] | None:
    """Return the server that runs in `root` and what it serves now (all versions), or None where none runs.

    Raises:
        ClientError: it runs and does not answer.
    """
    running = state.running(root.resolve())
    if running is None:
        return None
    with Client.of_state(running) as client:
        return running, [each for name in client.models() for each in client.versions(name)]


def _show(models: Sequence[ModelStatus], running: ServerState, console: Console) -> None:
    table = Table(title=f"{running.inference} (management {running.management}, metrics {running.metrics})")
    for heading in ("model", "version", "workers", "state", "processes"):
        table.add_column(heading)
    for model in models:
        states = sorted({worker.status for worker in model.workers}) or ["no worker"]
        pids = ", ".join(str(worker.pid) for worker in model.workers)
        table.add_row(model.name, model.version, str(len(model.workers)), ", ".join(states), pids)
    console.print(table)


def _run(arguments: argparse.Namespace, console: Console) -> int:
    root = Path.cwd()
    if arguments.verb == "start":
        offset = arguments.port_offset if arguments.port_offset is not None else ports.offset_of_environment()
        with console.status("Starting TorchServe and loading the models ..."):
            started = start(
                arguments.models,
                root=root,
                config=arguments.config,
                offset=offset,
                timeout=arguments.timeout,
                access_log=arguments.access_log,
            )
        _show(started.models, started.state, console)
        console.print(f"Ready after {started.seconds:.1f} s. Stop it with: make stop")
        return 0
    if arguments.verb == "stop":
        console.print("Stopped." if stop(root=root) else "No server was started here.")
        return 0
    found = status(root=root)
    if arguments.json:
        running, models = found if found is not None else (None, [])
        document = {
            "running": running is not None,
            "server": dataclasses.asdict(running) if running is not None else None,
            "models": [dataclasses.asdict(model) for model in models],
        }
        print(json.dumps(document, indent=2))
    elif found is None:
        console.print("No server was started here.")
    else:
        _show(found[1], found[0], console)
    return 0 if found is not None else 3


def main() -> int:
    """Run one verb; 0 is well, 1 an error, 2 wrong usage, 3 (status) that no server runs."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.server", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    starting = verbs.add_parser("start")
    starting.add_argument("models", nargs="*", metavar="NAME[=VERSION]")
    starting.add_argument("--config", type=Path, help="another config.properties")
    starting.add_argument("--port-offset", type=int, metavar="N", help="move all ports by N")
    starting.add_argument("--access-log", action="store_true", help="a line a request in logs/access_log.log")
    starting.add_argument("--timeout", type=float, default=180.0, metavar="SECONDS")
    verbs.add_parser("stop")
    verbs.add_parser("status").add_argument("--json", action="store_true", help="one JSON document")
    arguments = parser.parse_args()
    try:
        return _run(arguments, Console(soft_wrap=True))
    except (ServerError, ArchiveError, PortError, JavaError, ClientError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; the server was stopped", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
