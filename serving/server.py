"""Start and stop TorchServe.

python -m serving.server start                     the previously live models, and the newest version of every other one
python -m serving.server start fingers petals=1.0  these models, fingers in its live version, or else the newest
python -m serving.server stop

One server runs in one directory: its logs and logs/server.json, key_file.json and model_store/ are relative to it.
SIGHTLINE_PORT_OFFSET=100 (or --port-offset 100) moves all ports of config.properties, so that a second directory can
have its own server. model_store/live.json records the served versions; `make deploy` and `make rollback` change it, and
the next start restores it.
"""

import argparse
import contextlib
import dataclasses
import errno
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from serving import status
from serving.client import Client, ClientError, ModelStatus
from serving.errors import ServingError
from serving.host import affinity, lock, logs, ports, state
from serving.host.ports import Ports
from serving.host.state import ServerState
from serving.lifecycle import launch
from serving.lifecycle.launch import CONFIG, LaunchError
from serving.lifecycle.plan import Plan
from serving.lifecycle.readiness import NotReady, Version, wait_ready
from serving.page import page
from serving.store import model_store
from serving.store.live import Live, LiveModel
from serving.store.model_store import Archive, ArchiveError

LINK = Path("management.sock")  # in logs/: the same name whatever the temporary folder is


class ServerError(ServingError):
    """The server cannot be started or stopped; the message says what to do."""


class RunsAlready(ServerError):
    """A server runs in this directory already."""


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """A server whose workers are all READY."""

    state: ServerState
    models: list[ModelStatus]
    seconds: float
    left_out: list[str]  # versions that are not served, each with the reason


def start(
    wanted: Sequence[str] = (),
    *,
    root: Path,
    config: Path | None = None,
    offset: int = 0,
    timeout: float = math.inf,
    access_log: bool = False,
    restore: bool = False,
) -> Started:
    """Start TorchServe in `root` with the archives that `wanted` asks for, and return once every worker is READY.

    `wanted` holds `NAME` (the live version, or else the newest) or `NAME=VERSION`, and only these are served (with
    `restore`: and the other previously live models). An empty `wanted` means the previously live models, with the
    versions kept for a rollback, and the newest version of every other model in the store (with `restore`: without
    those). A version that was not named and does not load is left out and reported; the previous version replaces a
    live one until the next start.
    `config` is the config.properties (that of `root` where None), whose ports are moved by `offset`. `timeout` is in
    seconds, to wait less than the versions' startupTimeout. `access_log` logs each request in logs/access_log.log.

    Raises:
        RunsAlready: a server runs in `root` already.
        ServerError: a worker does not load; the message ends with the log's last lines.
        Held: another process is starting one.
        ArchiveError, PortError, JavaError: an archive, a free port or Java is missing.
    """
    root = root.resolve()
    start_time = time.monotonic()
    if wanted or not restore:
        ServerState.take_up(root)
    with lock.starting(root):
        if (running := state.running(root)) is not None:
            raise RunsAlready(f"a server runs here already (process {running.pid}, {running.inference}): stop it first")
        # Under the lock of live.json, after that check: a deployment checks under it that the server still runs.
        known = Live.update(root, lambda live: live)
        plan = Plan.of(known, wanted, root / model_store.FOLDER, restore=restore)
        config = config or root / CONFIG
        listening = addresses_to_use(config, offset)
        stop(root=root)  # what a killed server left behind: workers, its temporary folder
        mark = logs.Mark.now(root)
        try:
            started = launch.launch(
                plan.first, plan.models, root=root, config=config, listening=listening, offset=offset,
                access_log=access_log,
            )  # fmt: skip
            _link(started, root)
            models, left_out = _load(plan, started, root, start_time + timeout)
            started = dataclasses.replace(started, busy=0, busy_created=0)
            started.write(root)
        except BaseException as error:  # an interrupt too leaves no server behind
            stop(root=root)
            if isinstance(error, NotReady | LaunchError):
                raise ServerError("\n".join(filter(None, [str(error), mark.last()]))) from error
            raise
    misnamed = [] if wanted else model_store.misnamed(root / model_store.FOLDER)
    return Started(started, models, time.monotonic() - start_time, [*left_out, *misnamed])


def addresses_to_use(config: Path, offset: int) -> Ports:
    """Return the addresses of a server with this config.properties, after checking that they are free.

    Raises:
        ServerError: there is no such file.
        PortError: a port is taken or invalid.
    """
    if not config.is_file():
        raise ServerError(f"{config.name} does not exist: start in the repository's root, or name one with --config")
    listening = Ports.of_config(config.read_text()).moved(offset)
    listening.with_management_socket("").check_free()  # its path does not matter: only ports can be taken
    return listening


def _load(plan: Plan, started: ServerState, root: Path, deadline: float) -> tuple[list[ModelStatus], list[str]]:
    """Load and record all versions of a plan; return those that answer, and the reasons for the others."""
    mark = logs.Mark.now(root)
    with Client.of_state(started) as client:
        required = plan.required
        remaining = deadline - time.monotonic()
        models = wait_ready(client, required, alive=lambda: started.process() is not None, timeout=remaining)
        rest = [
            archive
            for archive in ((archive.name, archive.version) for archive in plan.first)
            if archive not in required
        ]
        back, lost = _answering(client, started, rest, mark, deadline)
        models += back
        first = plan.recorded(lost)
        _remember(root, lambda now: now.merged(plan.known, first))
        refused = {}
        for name, version in plan.others:
            try:
                _register(client, root, (name, version))
            except (ArchiveError, ClientError) as error:
                refused[name, version] = str(error)
        others = [version for version in plan.others if version not in refused]
        more, failed = _answering(client, started, others, mark, deadline)
        for status in more:
            if status.name in {name for name, _ in lost}:  # in its place
                client.set_default(status.name, status.version)
    models += more
    left_out = {**plan.damaged, **lost, **refused, **failed}
    if not models:
        raise NotReady(
            "; ".join(f"{name} {version} does not load: {reason}" for (name, version), reason in left_out.items())
        )
    _remember(root, lambda now: now.merged(first, plan.recorded(left_out, more)))
    serving = {status.name: status.version for status in models}
    told = [
        f"{name} {version} was live and is no longer served: make deploy NAME={name} VERSION={version}"
        for name, version in plan.forgotten
    ]
    for (name, version), reason in left_out.items():
        was_live = (name, version) in plan.damaged or (name, version) in lost
        instead = f" ({serving[name]} is served instead)" if was_live and name in serving else ""
        told.append(f"{name} {version} is not served{instead}: {reason}")
    return models, told


def _answering(
    client: Client, started: ServerState, wanted: Sequence[Version], mark: logs.Mark, deadline: float
) -> tuple[list[ModelStatus], dict[Version, str]]:
    """Wait for versions; return the states of those that answer, and the reasons for the others, which are removed."""
    models, failed = [], {}
    for version in wanted:
        try:
            remaining = deadline - time.monotonic()
            models += wait_ready(client, [version], alive=lambda: started.process() is not None, timeout=remaining)
        except NotReady as error:
            if started.process() is None:
                raise
            failed[version] = mark.raised(*version) or str(error)
            with contextlib.suppress(ClientError):
                client.unregister(*version)
    return models, failed


def add(known: ServerState, root: Path, version: Version, *, ending: Callable[[], bool] = lambda: False) -> None:
    """Load a version beside those that the server of `root` serves, until `ending` returns True.

    Loading may take minutes: other processes may deploy as soon as it is registered.

    Raises:
        Held: a deployment runs.
        NotReady: it does not load; it is removed again.
        ArchiveError, ClientError: it cannot be registered.
    """
    mark = logs.Mark.now(root)
    with Client.of_state(known) as client, affinity.loading(known) as keep:
        with lock.deploying(root):
            _register(client, root, version)

        def alive() -> bool:
            keep()
            return known.process() is not None and not ending()

        try:
            wait_ready(client, [version], alive=alive)
        except NotReady as error:
            with contextlib.suppress(ClientError):
                client.unregister(*version)
            raise NotReady(mark.raised(*version) or str(error)) from error


def _register(client: Client, root: Path, version: Version) -> None:
    path = model_store.path_of(*version, root / model_store.FOLDER)
    Archive(*version, path).check()
    client.register(path.name)


def finish(known: ServerState, client: Client, root: Path, *, alone: bool = False) -> list[Version]:
    """Record the models that answer after a start that was killed before it recorded them, and return them.

    Return none while a deployment runs, whose version is not checked yet, unless the caller holds `lock.deploying`.

    Raises:
        ClientError: the server does not answer.
    """
    if not known.busy or known.is_starting_or_stopping:
        return []
    recorded = Live.read(root).models
    defaults = [client.describe(name) for name in client.models()]
    new = {status.name: status.version for status in defaults if status.ready and status.name not in recorded}
    if new and not alone:
        with contextlib.suppress(lock.Held), lock.deploying(root):
            return finish(known, client, root, alone=True)
        return []
    if new:
        _remember(root, lambda now: Live({**{name: LiveModel(new[name]) for name in new}, **now.models}))
    if all(status.ready for status in defaults) and ServerState.read(root) == known:
        dataclasses.replace(known, busy=0, busy_created=0).write(root)
    return list(new.items())


def _remember(root: Path, change: Callable[[Live], Live]) -> None:
    """Change live.json, unless the store is mounted read-only."""
    try:
        Live.update(root, change)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise


def _link(started: ServerState, root: Path) -> None:
    """Link the management socket to a short path."""
    link = root / logs.FOLDER / LINK
    link.unlink(missing_ok=True)
    if started.management.startswith("unix:"):
        with contextlib.suppress(PermissionError, NotImplementedError):  # a file system without links (FAT)
            link.symlink_to(started.management.removeprefix("unix:"))


def stop(*, root: Path) -> bool:
    """End the server that was started in `root`; return whether one ran."""
    root = root.resolve()
    known = ServerState.read(root)
    if known is None:
        return False
    process = known.process()
    if process is not None:
        known.with_this_process_busy().write(root)  # so that a watcher leaves it alone
        state.end_tree(process)
        Path(known.key_file).unlink(missing_ok=True)  # its tokens are no longer valid
    state.end_orphans(known)
    shutil.rmtree(known.temporary, ignore_errors=True)
    (root / logs.FOLDER / LINK).unlink(missing_ok=True)
    ServerState.remove(root)
    return process is not None


def _run(arguments: argparse.Namespace, console: Console) -> int:
    root = Path.cwd()
    if arguments.verb == "stop":
        ServerState.stay_stopped(root)
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
    report = status.read(root)
    if report is not None:
        status.show(report, console)
    for warning in started.left_out:
        print(f"warning: {warning}", file=sys.stderr)
    console.print(f"Ready after {started.seconds:.1f} s. Stop it with: make stop")
    return 0


def main() -> int:
    """Run one command; return 0 on success, 1 on an error, 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.server", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    starting = verbs.add_parser("start")
    starting.add_argument("models", nargs="*", metavar="NAME[=VERSION]")
    starting.add_argument("--config", type=Path, help="use this config.properties")
    starting.add_argument("--port-offset", type=int, metavar="N", help="move all ports by N")
    starting.add_argument("--access-log", action="store_true", help="log each request in logs/access_log.log")
    starting.add_argument(
        "--timeout", type=float, default=math.inf, metavar="SECONDS", help="fail if loading takes longer than this"
    )
    verbs.add_parser("stop")
    arguments = parser.parse_args()
    try:
        return _run(arguments, page())
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; the server was stopped", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
