"""Swap in another version of a model without losing a request, or change nothing.

    python -m serving.deploy fingers 2.0             the previous version stays READY, for a rollback, until the next
    python -m serving.deploy fingers 2.0 --no-keep   it is removed as soon as its last request is answered
    python -m serving.deploy fingers                 the newest version of the store
    python -m serving.deploy fingers --replay 1      only if it answers the images of the prediction log as logged
    python -m serving.deploy fingers --shadow 0.1    only if it does not answer copies of live requests worse
    python -m serving.deploy fingers --canary 0.1    it answers a tenth of the clients' requests first

verify     the archive is complete and answers its golden images, in a separate process
changes    the differences from the live version
register   without waiting inside the server, which would stall its other requests
load       one worker, until it is READY; if it dies, the deployment fails
compare    golden images on /predictions/<name>/<version>: the answers, and the latency against the live version's
scale      its other workers, one after the other: loading takes half of the cores from the answering ones
replay     if asked for: logged images, see `serving.rollout.replay`
shadow     if asked for: copies of live requests, see `serving.rollout.live_trial`
canary     if asked for: requests of clients, see `serving.rollout.canary`
switch     the default version, in one step
watch      for a while: workers, and golden images through the default address
commit     model_store/live.json, which the next start brings back
drain      versions no longer needed, then remove them

`serving.lifecycle.deployment` has these steps. A failed step undoes the steps before it and prints its name and the
cause. Until `commit`, a killed server restarts with the previous version, afterwards with the new one.
"""

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from serving import server
from serving.client import Client, ClientError, NotFound
from serving.errors import ServingError
from serving.host import lock
from serving.host.state import ServerState
from serving.lifecycle import drain
from serving.lifecycle.deployment import INTERRUPTS, Deployed, DeployError, DeployLimits, Deployment, record
from serving.rollout.canary import Canary
from serving.rollout.live_trial import Length, LiveTrial, Shadow
from serving.rollout.replay import AGREEMENT, Replay
from serving.rollout.trial import Trial
from serving.store import model_store
from serving.store.live import Live, LiveModel
from serving.store.model_store import Archive

LIMITS, LENGTH = DeployLimits(), Length()
STARTING = 1800.0  # seconds to wait for another start or stop of the server: some models load for minutes


def deploy(
    name: str,
    version: str | None = None,
    *,
    root: Path,
    keep: bool = True,
    limits: DeployLimits = LIMITS,
    verify: bool = True,
    trials: Sequence[Trial] = (),
    log: Callable[[str], None] = print,
) -> Deployed:
    """Make `version` (the newest where None) of `name` the default of the server in `root`; `log` gets each step.

    `verify=False` skips most of the first step, for an archive that was just built. It goes live only if it passes all
    `trials`.

    Raises:
        DeployError: a step failed and the steps before it were undone; or the version is live already.
        TrialError: a trial has nothing to work with, and nothing was done.
        Held: another deployment runs.
        ArchiveError: there is no such archive.
        ClientError: the server does not answer.
    """
    root = root.resolve()
    archive = model_store.find(name, version, root / model_store.FOLDER)
    with lock.deploying(root), _operated(root, log) as (running, client):
        return Deployment(root, running, client, archive, limits, log, trials).run(keep=keep, rehearse=verify)


def rollback(name: str, *, root: Path, live: str | None = None, log: Callable[[str], None] = print) -> Deployed:
    """Make the previous version the default again, in one step; the live one stays READY in its place.

    With `live`, only if that version is live.

    Raises:
        ArchiveError: the name is invalid.
        DeployError: no version is kept, or it is not READY.
        Held: a deployment runs.
        ClientError: the server does not answer.
    """
    model_store.check_name(name)
    root = root.resolve()
    with lock.deploying(root), _operated(root, log) as (running, client):
        model = Live.read(root).models.get(name)
        try:
            default = client.describe(name).version
        except NotFound:
            raise DeployError(f"{name} is not served: deploy it (make deploy NAME={name})") from None
        if model is not None and model.version != default:  # after an interrupted deployment
            model = LiveModel(default, model.version)
        if model is None or model.previous is None:
            raise DeployError(
                f"no version of {name} is kept to roll back to: deploy the one you want (make deploy NAME= VERSION=)"
            )
        if live is not None and model.version != live:
            raise DeployError(f"{name} {live} is not live any more")
        start_time = time.perf_counter()
        try:
            ready = client.describe(name, model.previous).ready
        except NotFound:
            ready = False
        if not ready:
            raise DeployError(f"{name} {model.previous} is not READY: deploy it (make deploy NAME={name} VERSION=...)")
        with _uninterrupted():  # a switch without a record would not survive a restart
            client.set_default(name, model.previous)
            back = LiveModel(model.previous, model.version)
            try:
                record(root, running, lambda live: live.with_model(name, back))
            except (ServingError, OSError) as error:
                with contextlib.suppress(ClientError):  # the server has ended, and restarts as recorded
                    client.set_default(name, model.version)
                reason = f"the rollback cannot be recorded ({error})"
                raise DeployError(f"{model.version} stays live: {reason}") from error
        return Deployed(name, model.previous, model.version, {"switch": time.perf_counter() - start_time})


def drop(name: str, version: str, *, root: Path, is_last: bool = False, log: Callable[[str], None] = print) -> None:
    """Remove a version that is kept for a rollback, with `is_last` also the only one of its model; else nothing.

    Raises:
        Held: a deployment runs.
        DeployError: no server runs.
        ClientError: the server does not answer.
    """
    root = root.resolve()
    model = Live.read(root).models.get(name)
    removable = [model.previous, *([model.version] if is_last and model.previous is None else [])] if model else []
    if version not in removable:
        return
    with lock.deploying(root), _operated(root, log) as (running, client):
        record(root, running, lambda live: live.without([(name, version)]))
        drain.remove_archive(
            client, Archive(name, version, model_store.path_of(name, version, root / model_store.FOLDER))
        )


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay interrupts until the block ends, and drop them: the rollback is finished by then."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        yield
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _operated(root: Path, log: Callable[[str], None]) -> Iterator[tuple[ServerState, Client]]:
    """Yield the server of `root`, once no other process is starting or stopping it, and a client of it.

    A killed start is recorded before and after: loading models may be READY by then.
    """
    server_state, is_waiting, deadline = ServerState.read(root), False, time.monotonic() + STARTING
    while server_state is not None and server_state.is_starting_or_stopping:
        if time.monotonic() > deadline:
            raise lock.Held("a server is being started or stopped here: wait for it (make status)")
        if not is_waiting:
            log("another process is starting or stopping the server: waiting for it ...")
        is_waiting = True
        time.sleep(0.1)
        server_state = ServerState.read(root)
    if server_state is None or server_state.process() is None:
        raise DeployError("no server runs here: start one (make serve)")
    with Client.of_state(server_state) as client:
        _finish(server_state, client, root, log)
        yield server_state, client
        with contextlib.suppress(ServingError):  # the deployment itself has succeeded
            _finish(server_state, client, root, log)


def _finish(server_state: ServerState, client: Client, root: Path, log: Callable[[str], None]) -> None:
    for name, version in server.finish(server_state, client, root, is_deploying=True):
        log(f"{name} {version} was loaded by a start that was killed: recorded as live")


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (share := float(text)) <= 1:
            return share
    raise argparse.ArgumentTypeError(f"{text!r} is no share from 0 to 1")


def _trials(arguments: argparse.Namespace) -> list[Trial]:
    trials: list[Trial] = []
    length = Length(arguments.requests, arguments.minutes, arguments.labels)
    if arguments.replay:
        trials.append(Replay(arguments.replay, AGREEMENT if arguments.agreement is None else arguments.agreement))
    live: dict[type[LiveTrial], float] = {Shadow: arguments.shadow, Canary: arguments.canary}
    return trials + [kind(share, arguments.agreement, length) for kind, share in live.items() if share]


def main() -> int:
    """Deploy or roll back; return 0 on success, 1 on an error, 130 after an interrupt that was undone."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.deploy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="the model")
    parser.add_argument("version", nargs="?", help="the version to deploy (default: the newest in the store)")
    parser.add_argument("--rollback", action="store_true", help="make the previous version, still READY, live again")
    parser.add_argument("--no-keep", action="store_true", help="remove the previous version")
    add = parser.add_argument
    add("--watch", type=float, default=LIMITS.watch, metavar="SECONDS", help="watch it this long after the switch")
    add("--slower", type=float, default=LIMITS.slower, metavar="TIMES", help="allowed latency, in times the live one's")
    add("--timeout", type=float, default=LIMITS.load, metavar="SECONDS", help="fail if loading takes longer")
    add("--replay", default="", metavar="LOG", help="folder of a prediction log with images; 1: that of the model")
    add("--agreement", type=_share, metavar="SHARE", help=f"share of equal answers (default: {AGREEMENT} in a replay)")
    add("--shadow", type=_share, default=0.0, metavar="SHARE", help="share of live requests that it gets copies of")
    add("--canary", type=_share, default=0.0, metavar="SHARE", help="share of clients' requests that it answers first")
    add("--requests", type=int, default=LENGTH.requests, metavar="N", help="copies until a decision (%(default)s)")
    add("--minutes", type=float, default=LENGTH.minutes, help="time until a decision at the latest (%(default)s)")
    add("--labels", type=float, default=LENGTH.labels, metavar="SECONDS", help="then wait for labels this long")
    arguments = parser.parse_args()
    for number in INTERRUPTS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # by nohup, or a shell that started this with &
            signal.signal(number, signal.default_int_handler)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    root = Path.cwd()
    try:
        if arguments.rollback:
            deployed = rollback(arguments.name, root=root)
        else:
            limits = DeployLimits(load=arguments.timeout, slower=arguments.slower, watch=arguments.watch)
            deployed = deploy(
                arguments.name, arguments.version or None, root=root, keep=not arguments.no_keep, limits=limits,
                trials=_trials(arguments), log=console.print,
            )  # fmt: skip
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; the deployment was undone", file=sys.stderr)
        return 130
    source = f" from {deployed.before}" if deployed.before else ""
    milliseconds = deployed.steps["switch"] * 1e3
    console.print(f"{deployed.name} {deployed.version} is live; the switch{source} took {milliseconds:.0f} ms.")
    if arguments.rollback:
        console.print(f"{deployed.before} stays READY: make rollback again returns to it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
