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
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from serving import status
from serving.client import Client, ClientError, ModelStatus
from serving.console import table_console
from serving.errors import ServingError
from serving.host import affinity, lock, logs, ports, state
from serving.host.ports import Ports
from serving.host.state import ServerState
from serving.lifecycle import launch
from serving.lifecycle.launch import CONFIG, LaunchError
from serving.lifecycle.plan import Plan
from serving.lifecycle.readiness import NotReady, Version, wait_ready
from serving.store import model_store, signature
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
    selection: Sequence[str] = (),
    *,
    root: Path,
    config: Path | None = None,
    offset: int = 0,
    timeout: float = math.inf,
    access_log: bool = False,
    restore: bool = False,
) -> Started:
    """Start TorchServe in `root` with the archives of `selection`, and return once every worker is READY.

    `selection` holds `NAME` (the live version, or else the newest) or `NAME=VERSION`, and only these are served (with
    `restore`: the other previously live models too). An empty one means the previously live models, with the versions
    kept for a rollback, and the newest version of every other model in the store (with `restore`: not the other
    models). A version that was not named and does not load is left out and reported; the previous version replaces a
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
    if selection or not restore:
        ServerState.take_up(root)
    with lock.starting(root):
        if (running := state.running(root)) is not None:
            raise RunsAlready(f"a server runs here already (process {running.pid}, {running.inference}): stop it first")
        # Under the lock of live.json, after that check: a deployment checks under it that the server still runs.
        previous = Live.update(root, lambda live: live)
        plan = Plan.of(previous, selection, root / model_store.FOLDER, restore=restore)
        config = config or root / CONFIG
        listening = addresses_to_use(config, offset)
        stop(root=root)  # remove the workers and the temporary folder of a killed server
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
    misnamed = [] if selection else model_store.misnamed(root / model_store.FOLDER)
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
    """Load and record all versions of a plan; return those that answer, and warnings about the other ones."""
    mark = logs.Mark.now(root)
    with Client.of_state(started) as client:
        remaining = deadline - time.monotonic()
        models = wait_ready(client, plan.required, alive=lambda: started.process() is not None, timeout=remaining)
        restored, not_restored = _wait_each(client, started, plan.optional, mark, deadline)
        first = plan.recorded(not_restored)
        _remember(root, lambda now: now.merged(plan.previous, first))
        registered, refusals = _register_all(client, root, plan.additions)
        additions, failures = _wait_each(client, started, registered, mark, deadline)
        _replace(client, not_restored, additions)
    models += [*restored, *additions]
    not_live = {**plan.damaged, **not_restored}
    left_out = {**not_live, **refusals, **failures}
    if not models:
        raise NotReady(
            "; ".join(f"{name} {version} does not load: {reason}" for (name, version), reason in left_out.items())
        )
    _remember(root, lambda now: now.merged(first, plan.recorded(left_out, additions)))
    return models, [*_warnings_of_forgotten(plan), *_warnings_of_left_out(left_out, not_live, models)]


def _replace(client: Client, failures: Collection[Version], additions: Sequence[ModelStatus]) -> None:
    """Make an addition the default where the first version of its model did not load."""
    names = {name for name, _ in failures}
    for model in additions:
        if model.name in names:
            client.set_default(model.name, model.version)


def _warnings_of_forgotten(plan: Plan) -> list[str]:
    return [
        f"{name} {version} was live and is no longer served: make deploy NAME={name} VERSION={version}"
        for name, version in plan.forgotten
    ]


def _warnings_of_left_out(
    left_out: Mapping[Version, str], not_live: Collection[Version], models: Sequence[ModelStatus]
) -> list[str]:
    """Return a warning for each version that is not served; one of `not_live` names the version in its place."""
    serving = {model.name: model.version for model in models}
    warnings = []
    for (name, version), reason in left_out.items():
        is_replaced = (name, version) in not_live and name in serving
        instead = f" ({serving[name]} is served instead)" if is_replaced else ""
        warnings.append(f"{name} {version} is not served{instead}: {reason}")
    return warnings


def _wait_each(
    client: Client, started: ServerState, versions: Sequence[Version], mark: logs.Mark, deadline: float
) -> tuple[list[ModelStatus], dict[Version, str]]:
    """Wait for versions; return the states of those that answer, and a reason for each other one, which is removed."""
    models, failures = [], {}
    for version in versions:
        try:
            remaining = deadline - time.monotonic()
            models += wait_ready(client, [version], alive=lambda: started.process() is not None, timeout=remaining)
        except NotReady as error:
            if started.process() is None:
                raise
            failures[version] = mark.raised(*version) or str(error)
            with contextlib.suppress(ClientError):
                client.unregister(*version)
    return models, failures


def add(server: ServerState, root: Path, version: Version, *, ending: Callable[[], bool] = lambda: False) -> None:
    """Load a version beside those that the `server` of `root` serves, until `ending` returns True.

    Loading may take minutes: other processes may deploy as soon as it is registered.

    Raises:
        Held: a deployment runs.
        NotReady: it does not load; it is removed again.
        ArchiveError, ClientError: it cannot be registered.
    """
    mark = logs.Mark.now(root)
    with Client.of_state(server) as client, affinity.loading(server) as keep:
        with lock.deploying(root):
            _register(client, root, version)

        def alive() -> bool:
            keep()
            return server.process() is not None and not ending()

        try:
            wait_ready(client, [version], alive=alive)
        except NotReady as error:
            with contextlib.suppress(ClientError):
                client.unregister(*version)
            raise NotReady(mark.raised(*version) or str(error)) from error


def _register(client: Client, root: Path, version: Version) -> None:
    path = model_store.path_of(*version, root / model_store.FOLDER)
    archive = Archive(*version, path)
    archive.check()
    signature.check(archive, root)
    client.register(path.name)


def _register_all(client: Client, root: Path, versions: Sequence[Version]) -> tuple[list[Version], dict[Version, str]]:
    """Register versions; return those that the server accepts, and a reason for each other one."""
    refusals = {}
    for version in versions:
        try:
            _register(client, root, version)
        except (ArchiveError, ClientError) as error:
            refusals[version] = str(error)
    return [version for version in versions if version not in refusals], refusals


def finish(server: ServerState, client: Client, root: Path, *, is_deploying: bool = False) -> list[Version]:
    """Record the models that answer after a start that was killed before it recorded them, and return them.

    Return none while another process deploys a version that is not checked yet; `is_deploying`: the caller holds
    `lock.deploying`.

    Raises:
        ClientError: the server does not answer.
    """
    if not server.busy or server.is_starting_or_stopping:
        return []
    live = Live.read(root)
    defaults = [client.describe(name) for name in client.models()]
    new = _unrecorded(defaults, live)
    if new and not is_deploying:
        with contextlib.suppress(lock.Held), lock.deploying(root):
            return finish(server, client, root, is_deploying=True)
        return []
    if new:
        _remember(root, lambda now: Live({**new, **now.models}))
    if all(status.ready for status in defaults) and ServerState.read(root) == server:
        dataclasses.replace(server, busy=0, busy_created=0).write(root)
    return [(name, model.version) for name, model in new.items()]


def _unrecorded(defaults: Sequence[ModelStatus], live: Live) -> dict[str, LiveModel]:
    """Return the models whose default version is READY and that live.json does not hold."""
    return {
        status.name: LiveModel(status.version) for status in defaults if status.ready and status.name not in live.models
    }


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
    server = ServerState.read(root)
    if server is None:
        return False
    process = server.process()
    if process is not None:
        server.with_this_process_busy().write(root)  # a watcher does not repair a server that another process stops
        state.end_tree(process)
        Path(server.key_file).unlink(missing_ok=True)  # its tokens are no longer valid
    state.end_orphans(server)
    shutil.rmtree(server.temporary, ignore_errors=True)
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
        return _run(arguments, table_console())
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; the server was stopped", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
