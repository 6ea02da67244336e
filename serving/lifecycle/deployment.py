"""One deployment: the steps that `serving.deploy` documents, and their undo."""

import contextlib
import dataclasses
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from serving import verify
from serving.client import Client, ClientError, ModelStatus, NotFound
from serving.errors import ServingError
from serving.host import affinity, logs, properties, state
from serving.host.resources import WORKERS, Resources
from serving.host.state import ServerState
from serving.lifecycle import golden_check
from serving.lifecycle.drain import remove_archive
from serving.lifecycle.golden_check import GoldenCheck
from serving.lifecycle.launch import CONFIG
from serving.lifecycle.readiness import NotReady, wait_ready
from serving.rollout.trial import Candidate, Trial
from serving.store import model_store, signature
from serving.store.changes import changes
from serving.store.live import Live, LiveModel
from serving.store.model_store import Archive, ArchiveError

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DeployError(ServingError):
    """A deployment failed and was undone; the message names the step and the cause."""


@dataclasses.dataclass(frozen=True, slots=True)
class DeployLimits:
    """The limits that a new version must keep; all times in seconds."""

    load: float = math.inf  # from the registration until every worker is READY, or less: its own startupTimeout
    slower: float = 3.0  # allowed median latency, in times the live version's,
    grace: float = 0.05  # plus this
    rounds: int = 16  # golden images sent to each
    watch: float = 5.0  # time after the switch


@dataclasses.dataclass(frozen=True, slots=True)
class Deployed:
    """A finished deployment: the version that was live before, and the seconds of each step."""

    name: str
    version: str
    before: str | None
    steps: dict[str, float]


def record(root: Path, server: ServerState, change: Callable[[Live], Live]) -> None:
    """Change live.json, as long as the server runs in which the change was checked.

    Raises:
        DeployError: it has ended; the next server started with the previous live.json.
    """

    def checked(live: Live) -> Live:
        now = state.running(root)
        if now is None or (now.pid, now.created) != (server.pid, server.created):
            raise DeployError("the server has ended and will restart with the versions that were live before")
        return change(live)

    Live.update(root, checked)


def _says_workers(config: Path) -> bool:
    return config.is_file() and WORKERS in properties.read(config.read_text())


class Deployment:
    """One deployment: its steps, in order."""

    def __init__(
        self,
        root: Path,
        server: ServerState,
        client: Client,
        archive: Archive,
        limits: DeployLimits,
        log: Callable[[str], None],
        trials: Sequence[Trial] = (),
    ) -> None:
        self.trials = trials
        self.root, self.server, self.client, self.archive = root, server, client, archive
        self.limits, self.log = limits, log
        self.name, self.version = archive.name, archive.version
        self.recorded = self.before = Live.read(root).models.get(self.name)
        self.mark = logs.Mark.now(root)
        self.steps: dict[str, float] = {}

    def run(self, *, keep: bool, rehearse: bool) -> Deployed:
        self._recover()
        if self.before is not None and self.before.version == self.version:
            return self._record()
        for trial in self.trials:
            trial.check(self.root, self.name, self._live())
        with ExitStack() as undo:
            with self._step("verify"):
                signature.check(self.archive, self.root)
                if rehearse:
                    self._verify()
                else:
                    self.archive.check()
            with self._step("changes"):
                self._changes()
            with self._loading() as ready:
                if not self._is_ready():
                    with self._step("register"):
                        # Before the call: an interrupted call may have registered it.
                        undo.callback(self._undo, f"{self.version} is removed", self._remove, self.version)
                        signature.check(self.archive, self.root)  # again: the rehearsal took a while
                        # One worker for the check: the answering workers keep the other cores.
                        self.client.register(self.archive.path.name, workers=1)
                with self._step("load"):
                    ready()
            with self._step("compare"):
                check = self._compare()
            with self._step("scale"):
                self._scale()
                self._ask_each(check)
            for trial in self.trials:
                with self._step(trial.name):
                    trial.run(self._candidate())
            with self._step("switch"):
                self._switch(undo)
            with self._step("watch"):
                self._watch(check)
            with self._step("commit"):
                previous = self.before.version if self.before is not None and keep else None
                undo.callback(self._undo, "live.json is as before", self._record_before)
                model = LiveModel(self.version, previous, time.time())
                record(self.root, self.server, lambda live: live.with_model(self.name, model))
                undo.pop_all()
        try:
            with self._step("drain"):
                self._drain(previous)
        except KeyboardInterrupt:
            self.log(f"interrupted: {self.version} is live, and the next deployment removes the old version")
        return Deployed(self.name, self.version, self.before.version if self.before else None, self.steps)

    def _live(self) -> str | None:
        return self.before.version if self.before is not None else None

    def _candidate(self) -> Candidate:
        classes = set(self.archive.spec()["classes"])
        if self.before is not None and (live := self._archive_of(self.before.version)).path.is_file():
            with contextlib.suppress(ArchiveError, KeyError):  # an unreadable live version can still be replaced
                classes |= set(live.spec()["classes"])
        return Candidate(
            self.root, self.client, self.name, self.version, self._live(), frozenset(classes), self.limits.slower,
            self.limits.grace, self.log,
        )  # fmt: skip

    def _archive_of(self, version: str) -> Archive:
        return Archive(self.name, version, model_store.path_of(self.name, version, self.archive.path.parent))

    def _record(self) -> Deployed:
        """Record the version that already answers, in place of one that no longer loads."""
        recorded = self.recorded
        if recorded is not None and recorded.version == self.version:
            raise DeployError(f"{self.name} {self.version} is live already")
        record(self.root, self.server, lambda live: live.with_model(self.name, LiveModel(self.version)))
        return Deployed(self.name, self.version, recorded.version if recorded else None, {"switch": 0.0})

    def _record_before(self) -> None:
        """Restore the previous record of this model only."""

        def change(live: Live) -> Live:
            models = {name: model for name, model in live.models.items() if name != self.name}
            return Live(models | ({self.name: self.recorded} if self.recorded is not None else {}))

        Live.update(self.root, change)

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.log(f"{name} ...")
        start_time = time.perf_counter()
        try:
            yield
        except (ServingError, OSError) as error:
            raised = self.mark.raised(self.name, self.version) if isinstance(error, NotReady) else ""
            reason = f"{error}: {raised}" if raised else str(error)
            raise DeployError(f"{self.name} {self.version} is not deployed: {name} failed: {reason}") from error
        self.steps[name] = time.perf_counter() - start_time

    def _undo(self, says: str, work: Callable[..., object], *arguments: Any) -> None:
        # A second interrupt waits until this is done: half undone, neither version would be live.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
        try:
            work(*arguments)
            self.log(f"undone: {says}")
        except (ServingError, OSError) as error:  # the server has ended, and restarts as live.json says
            self.log(f"not undone ({error}): {says} after the next start")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _recover(self) -> None:
        """Clean up after a killed deployment: restore the recorded default, remove all other versions."""
        try:
            default = self.client.describe(self.name).version
            versions = [status.version for status in self.client.versions(self.name)]
        except NotFound:
            self.before = None
            return
        if self.before is None or not self._answers(self.before.version, default):
            self.before = LiveModel(default)
        if default != self.before.version:
            self.log(f"an earlier deployment was interrupted: {self.before.version} is live again")
            self.client.set_default(self.name, self.before.version)
        for version in versions:
            if version not in (self.before.version, self.before.previous):
                self.log(f"{version} is removed: it is neither live nor kept")
                self._remove(version)

    def _answers(self, live: str, default: str) -> bool:
        """Return whether the version recorded as live is registered, and READY unless it is the default anyway.

        Another version answers in its place while it loads, or after a change of the server by hand.
        """
        try:
            return self.client.describe(self.name, live).ready or live == default
        except NotFound:
            return False

    def _verify(self) -> None:
        for check in verify.verify(self.archive).checks:
            self.log(f"  {check.name}: {check.result}")

    def _changes(self) -> None:
        if self.before is None:
            self.log(f"  {self.name} is new")
            return
        old = self._archive_of(self.before.version)
        if not old.path.is_file():
            self.log(f"  unknown: {old.path.name} does not exist")
            return
        try:
            lines = changes(old, self.archive)
        except (ArchiveError, KeyError) as error:  # an unreadable live version can still be replaced
            lines = [f"unknown: {old.path.name} cannot be read ({error})"]
        for line in lines or ["none in classes, preprocessing, network or metrics"]:
            self.log(f"  {line}")

    def _is_ready(self) -> bool:
        """Return whether the version is registered and READY; remove it if it is not READY, as a kept one that died."""
        try:
            ready = self.client.describe(self.name, self.version).ready
        except NotFound:
            return False
        if not ready:
            self.log(f"  {self.version} is registered and not READY: registering it again")
            self._remove(self.version)
        return ready

    @contextlib.contextmanager
    def _loading(self) -> Iterator[Callable[[], ModelStatus]]:
        """Yield a function that waits for the workers that the block starts, on half of the cores until then."""
        with affinity.loading(state.running(self.root)) as keep:

            def alive() -> bool:
                keep()
                return state.running(self.root) is not None

            yield lambda: wait_ready(self.client, [(self.name, self.version)], alive=alive, timeout=self.limits.load)[0]

    def _scale(self) -> None:
        """Start its other workers, one after the other."""
        workers = self.client.describe(self.name, self.version).min_workers
        for count in range(workers + 1, self._workers() + 1):
            with self._loading() as ready:
                self.client.scale(self.name, self.version, count)
                ready()

    def _workers(self) -> int:
        """Return its number of workers, from the first of these that applies.

        1. minWorkers in the archive's settings.
        2. The number that config.properties sets, if the model replaces another version.
        3. Its share of the machine, but no more than each model got when the server started.
        """
        if own := self.archive.model_config().get("minWorkers"):
            return int(own)
        running = state.running(self.root)
        workers = running.workers if running else 1
        if running and self.before and _says_workers(Path(running.config or self.root / CONFIG)):
            return workers
        return min(workers, Resources.of_this_machine(len(self.client.models())).workers)

    def _ask_each(self, check: GoldenCheck) -> None:
        """Warm up every worker before callers reach it: the first request in a process takes longer.

        Workers that wait take requests in turns.
        """
        if check.golden:
            for number in range(2 * len(self.client.describe(self.name, self.version).workers)):
                check.ask(self.client, self.name, self.version, number=number)

    def _golden_check(self, archive: Archive) -> GoldenCheck:
        precision = self.client.description(self.name, archive.version)["precision"]
        return GoldenCheck(archive.golden(), archive.spec()["classes"], precision)

    def _compare(self) -> GoldenCheck:
        """Check the new version's answers and latency; return its golden check.

        The answers of an archive without golden images are not checked.
        """
        checks = {self.version: self._golden_check(self.archive)}
        if self.before is not None and self.client.describe(self.name, self.before.version).ready:
            # The same images for both, but only the new version's answers are checked.
            checks[self.before.version] = dataclasses.replace(checks[self.version], judged=False)
        if not checks[self.version].golden:
            self.log("  no golden images in this archive: its answers are not checked")
            return checks[self.version]
        seconds = golden_check.latencies(self.client, checks, self.name, self.limits.rounds)
        new, old = seconds[self.version], seconds.get(self.before.version) if self.before else None
        if len(seconds) < len(checks):
            self.log("  the live version does not answer these images: latency is not compared")
        self.log(f"  {new * 1e3:.1f} ms per answer" + (f", {old * 1e3:.1f} ms live" if old is not None else ""))
        if old is not None and new > self.limits.slower * old + self.limits.grace:
            raise DeployError(
                f"it is too slow: {new * 1e3:.0f} ms per answer, the live version {old * 1e3:.0f} ms "
                f"(allowed: {self.limits.slower:g} times and {self.limits.grace * 1e3:.0f} ms)"
            )
        return checks[self.version]

    def _switch(self, undo: ExitStack) -> None:
        """Make the new version the default; `undo` switches back."""
        if self.before is not None:
            back = self.before.version
            undo.callback(self._undo, f"{back} is live", self.client.set_default, self.name, back)
        self.client.set_default(self.name, self.version)

    def _watch(self, check: GoldenCheck) -> None:
        deadline = time.monotonic() + self.limits.watch
        pids = [worker.pid for worker in self.client.describe(self.name, self.version).workers]
        for number in itertools.count():
            self._check_live(check, pids, number)
            if time.monotonic() > deadline:
                return
            time.sleep(0.25)

    def _check_live(self, check: GoldenCheck, pids: list[int], number: int) -> None:
        """Check that one golden image gets the new version's answer, and that the same workers stay READY."""
        # Before the request: without a worker it would wait until the client's deadline.
        self._check_workers(pids)
        if check.golden:
            answer = check.ask(self.client, self.name, number=number)
            if answer.version not in (self.version, None):
                raise DeployError(f"version {answer.version} answers")
        # After the answer: the client sends a request again that a worker lost.
        self._check_workers(pids)

    def _check_workers(self, pids: list[int]) -> None:
        status = self.client.describe(self.name, self.version)
        if not status.ready or [worker.pid for worker in status.workers] != pids:
            raise DeployError("a worker died")

    def _drain(self, previous: str | None) -> None:
        """Remove the versions but the live one and `previous`; the deployment counts even if that fails."""
        old = {self.before.version, self.before.previous} - {previous, self.version, None} if self.before else set()
        for version in sorted(filter(None, old)):
            try:
                self._remove(version)
            except (ClientError, OSError) as error:
                self.log(f"  {version} is not removed ({error}): the next deployment tries again")

    def _remove(self, version: str) -> None:
        remove_archive(self.client, self._archive_of(version))
