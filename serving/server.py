"""Start and stop TorchServe.

python -m serving.server start                     what was live before, and the newest version of every other model
python -m serving.server start fingers petals=1.0  these models
python -m serving.server stop

One server runs in one directory: its logs and logs/server.json, key_file.json and model_store/ are relative to it.
SIGHTLINE_PORT_OFFSET=100 (or --port-offset 100) moves all ports of config.properties, so that a second directory can
have a server of its own. What it serves is written to model_store/live.json, which `make deploy` and `make rollback`
change, and comes back at the next start.
"""

import argparse
import contextlib
import dataclasses
import errno
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from serving import launch, logs, model_store, ports, state, status
from serving.client import Client, ClientError, ModelStatus
from serving.java import JavaError
from serving.launch import CONFIG, LaunchError
from serving.live import Live
from serving.model_store import Archive, ArchiveError
from serving.ports import PortError, Ports
from serving.readiness import NotReady, Version, wait_ready
from serving.state import ServerState

LINK = Path("management.sock")  # in logs/: the same name whatever the temporary folder is


class ServerError(Exception):
    """The server cannot be started or stopped; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """A server whose workers are all READY."""

    state: ServerState
    models: list[ModelStatus]
    seconds: float
    left_out: list[str]  # what was to be served besides and is not, each with the reason


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

    `wanted` holds `NAME` or `NAME=VERSION`; nothing means what was live before, with the versions kept for a rollback,
    and the newest version of every other model in the store. `config` is the config.properties (that of `root` where
    None), whose ports are moved by `offset`. `timeout` is in seconds. `access_log` writes a line a request to
    logs/access_log.log. A version that was not live (kept, or new) and does not load is left out and said.

    Raises:
        ServerError: one runs there already, or a worker does not load; the message ends with the log's last lines.
        ArchiveError, PortError, JavaError: what is needed is not there.
    """
    root = root.resolve()
    began = time.monotonic()
    if (running := state.running(root)) is not None:
        raise ServerError(f"a server runs here already (process {running.pid}, {running.inference}): stop it first")
    known = Live.read(root)
    live, archives = known.select(wanted, root / model_store.FOLDER)
    # What was live comes first; what has never been must not keep that from coming back.
    first = [each for each in archives if wanted or not known.models or each.name in known.models]
    for archive in first:
        archive.check()
    config = config or root / CONFIG
    if not config.is_file():
        raise ServerError(f"{config.name} is not there: start in the repository's root, or name one with --config")
    listening = Ports.of_config(config.read_text()).moved(offset)
    listening.behind("").check_free()
    stop(root=root)  # what a killed server left behind: workers, its temporary folder
    (root / logs.FOLDER).mkdir(exist_ok=True)
    mark = logs.Mark.now(root)
    try:
        started = launch.launch(
            first, len(archives), root=root, config=config, listening=listening, offset=offset, access_log=access_log
        )
        _link(started, root)
        with Client.of_state(started) as client:
            versions = [(each.name, each.version) for each in first]
            models = wait_ready(client, versions, alive=lambda: started.process() is not None, timeout=timeout)
            served = Live({each.name: live.models[each.name] for each in first})
            _remember(served, root)
            others = [*live.kept(), *((each.name, each.version) for each in archives if each not in first)]
            more, left_out = _load_others(client, started, others, timeout - (time.monotonic() - began))
            _remember(live.without({version for version, _ in left_out}), root)
        started = dataclasses.replace(started, busy=0)
        started.write(root)
    except BaseException as error:  # an interrupt too leaves no server behind
        stop(root=root)
        if isinstance(error, NotReady | LaunchError):
            raise ServerError("\n".join(filter(None, [str(error), mark.last()]))) from error
        raise
    told = [f"{name} {version} is not served: {why}" for (name, version), why in left_out]
    return Started(started, [*models, *more], time.monotonic() - began, told)


def _remember(live: Live, root: Path) -> None:
    """Write down what is live, unless that stands there already or the store is mounted for reading alone."""
    if live == Live.read(root):
        return
    try:
        live.write(root)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise


def _load_others(
    client: Client, started: ServerState, wanted: Sequence[Version], timeout: float
) -> tuple[list[ModelStatus], list[tuple[Version, str]]]:
    """Load versions beside those that are live; return the states of those that answer, and why the others do not."""
    root, deadline = Path(started.key_file).parent, time.monotonic() + timeout
    mark, models, left_out = logs.Mark.now(root), [], []
    for name, version in wanted:
        try:
            path = model_store.path_of(name, version, root / model_store.FOLDER)
            Archive(name, version, path).check()
            client.register(path.name)
        except (ArchiveError, ClientError) as error:
            left_out.append(((name, version), str(error)))
    for each in [each for each in wanted if each not in dict(left_out)]:
        try:
            remaining = deadline - time.monotonic()
            models += wait_ready(client, [each], alive=lambda: started.process() is not None, timeout=remaining)
        except NotReady as error:
            if started.process() is None:
                raise
            left_out.append((each, mark.raised(*each) or str(error)))
            with contextlib.suppress(ClientError):
                client.unregister(*each)
    return models, left_out


def _link(started: ServerState, root: Path) -> None:
    """Give the management socket a name that a person can type."""
    link = root / logs.FOLDER / LINK
    link.unlink(missing_ok=True)
    if started.management.startswith("unix:"):
        link.symlink_to(started.management.removeprefix("unix:"))


def stop(*, root: Path) -> bool:
    """End the server that was started in `root`, and nothing else; return whether one ran."""
    root = root.resolve()
    known = ServerState.read(root)
    if known is None:
        return False
    process = known.process()
    if process is not None:
        dataclasses.replace(known, busy=os.getpid()).write(root)  # so that a watcher leaves it alone
        state.end_tree(process)
        Path(known.key_file).unlink(missing_ok=True)  # its tokens open nothing any more
    state.end_orphans(known)
    shutil.rmtree(known.temporary, ignore_errors=True)
    (root / logs.FOLDER / LINK).unlink(missing_ok=True)
    ServerState.remove(root)
    return process is not None


def _run(arguments: argparse.Namespace, console: Console) -> int:
    root = Path.cwd()
    if arguments.verb == "stop":
        console.print("Stopped." if stop(root=root) else "No server was started here.")
        return 0
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
    found = status.read(root)
    if found is not None:
        status.show(found, console)
    for each in started.left_out:
        print(f"warning: {each}", file=sys.stderr)
    console.print(f"Ready after {started.seconds:.1f} s. Stop it with: make stop")
    return 0


def main() -> int:
    """Run one verb; 0 is well, 1 an error, 2 wrong usage."""
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
