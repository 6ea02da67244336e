"""One deployment: the steps that `serving.deploy` tells of, and what undoes them."""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from serving import verify
from serving.client import Client, ClientError, ModelStatus, NotFound
from serving.errors import ServingError
from serving.host import affinity, logs, properties, state
from serving.host.resources import WORKERS, Shares
from serving.host.state import ServerState
from serving.lifecycle import golden_check
from serving.lifecycle.drain import remove
from serving.lifecycle.golden_check import Exam
from serving.lifecycle.launch import CONFIG
from serving.lifecycle.readiness import NotReady, wait_ready
from serving.store import model_store
from serving.store.changes import changes
from serving.store.live import Live, LiveModel
from serving.store.model_store import Archive, ArchiveError

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DeployError(ServingError):
    """A deployment failed and left everything as it was; the message says at which step, and why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What a new version is held to; all times in seconds."""

    load: float = math.inf  # from the registration until every worker is READY, or less: its own startupTimeout
    slower: float = 3.0  # its median by the live version's,
    grace: float = 0.05  # and what it may take besides
    rounds: int = 16  # golden images asked of each
    watch: float = 5.0  # after the switch


@dataclasses.dataclass(frozen=True, slots=True)
class Deployed:
    """A deployment that went through: the version that was live before, and the seconds of each step."""

    name: str
    version: str
    before: str | None
    steps: dict[str, float]


def record(root: Path, server: ServerState, change: Callable[[Live], Live]) -> None:
    """Change what is recorded as live, as long as the server runs in which that was proven.

    Raises:
        DeployError: it has ended; the next one was started with what was recorded before.
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
    """One deployment: its steps, in the order in which they stand here."""

    def __init__(
        self,
        root: Path,
        server: ServerState,
        client: Client,
        archive: Archive,
        limits: Limits,
        say: Callable[[str], None],
    ) -> None:
        self.root, self.server, self.client, self.archive = root, server, client, archive
        self.limits, self.say = limits, say
        self.name, self.version = archive.name, archive.version
        self.recorded = self.before = Live.read(root).models.get(self.name)
        self.mark = logs.Mark.now(root)
        self.steps: dict[str, float] = {}

    def run(self, *, keep: bool, rehearse: bool) -> Deployed:
        self._tidy()
        if self.before is not None and self.before.version == self.version:
            return self._record()
        with ExitStack() as undo:
            with self._step("verify"):
                if rehearse:
                    self._verify()
                else:
                    self.archive.check()
            with self._step("changes"):
                self._changes()
            with self._loading() as ready:
                if not self._stands():
                    with self._step("register"):
                        # Before the call: also one that is cut short may have registered it.
                        undo.callback(self._undo, f"{self.version} is removed", self._remove, self.version)
                        # One worker to be judged: those that answer meanwhile keep the other cores.
                        self.client.register(self.archive.path.name, workers=1)
                with self._step("load"):
                    ready()
            with self._step("compare"):
                exam = self._compare()
            with self._step("scale"):
                self._scale()
                self._ask_each(exam)
            with self._step("switch"):
                if self.before is not None:
                    back = self.before.version
                    undo.callback(self._undo, f"{back} is live", self.client.set_default, self.name, back)
                self.client.set_default(self.name, self.version)
            with self._step("watch"):
                self._watch(exam)
            with self._step("commit"):
                kept = self.before.version if self.before is not None and keep else None
                undo.callback(self._undo, "live.json is as before", self._record_before)
                record(self.root, self.server, lambda live: live.of(self.name, LiveModel(self.version, kept)))
                undo.pop_all()
        try:
            with self._step("drain"):
                self._drain(kept)
        except KeyboardInterrupt:
            self.say(f"interrupted: {self.version} is live, and the next deployment removes the old version")
        return Deployed(self.name, self.version, self.before.version if self.before else None, self.steps)

    def _record(self) -> Deployed:
        """Write down the version that answers already, in the place of one that does not load any more."""
        recorded = self.recorded
        if recorded is not None and recorded.version == self.version:
            raise DeployError(f"{self.name} {self.version} is live already")
        record(self.root, self.server, lambda live: live.of(self.name, LiveModel(self.version)))
        return Deployed(self.name, self.version, recorded.version if recorded else None, {"switch": 0.0})

    def _record_before(self) -> None:
        """Record again of this model what was recorded before, and of no other."""

        def change(live: Live) -> Live:
            others = {name: each for name, each in live.models.items() if name != self.name}
            return Live(others | ({self.name: self.recorded} if self.recorded is not None else {}))

        Live.update(self.root, change)

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.say(f"{name} ...")
        began = time.perf_counter()
        try:
            yield
        except (ServingError, OSError) as error:
            raised = self.mark.raised(self.name, self.version) if isinstance(error, NotReady) else ""
            why = f"{error}: {raised}" if raised else str(error)
            raise DeployError(f"{self.name} {self.version} is not deployed: {name} failed: {why}") from error
        self.steps[name] = time.perf_counter() - began

    def _undo(self, says: str, work: Callable[..., object], *arguments: Any) -> None:
        # An impatient interrupt waits until this is done: half undone, it would be neither version's.
        signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
        try:
            work(*arguments)
            self.say(f"undone: {says}")
        except (ServingError, OSError) as error:  # the server is gone, and comes back as live.json says
            self.say(f"not undone ({error}): {says} after the next start")
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)

    def _tidy(self) -> None:
        """Finish what a deployment that was killed left behind: the default is what is recorded, nothing else stays."""
        try:
            default = self.client.describe(self.name).version
            there = [each.version for each in self.client.versions(self.name)]
        except NotFound:
            self.before = None
            return
        if self.before is None or not self._answers(self.before.version, default):
            self.before = LiveModel(default)
        if default != self.before.version:
            self.say(f"an earlier deployment was interrupted: {self.before.version} is live again")
            self.client.set_default(self.name, self.before.version)
        for version in there:
            if version not in (self.before.version, self.before.before):
                self.say(f"{version} is removed: it is neither live nor kept")
                self._remove(version)

    def _answers(self, live: str, default: str) -> bool:
        """Return whether the version that is recorded as live is there, and READY unless it is the default anyway.

        Another one answers in its place while it loads, and where somebody changed the server by hand.
        """
        try:
            return self.client.describe(self.name, live).ready or live == default
        except NotFound:
            return False

    def _verify(self) -> None:
        for each in verify.verify(self.archive).checks:
            self.say(f"  {each.name}: {each.seen}")

    def _changes(self) -> None:
        if self.before is None:
            self.say(f"  {self.name} is new")
            return
        old = model_store.Archive(
            self.name,
            self.before.version,
            model_store.path_of(self.name, self.before.version, self.archive.path.parent),
        )
        if not old.path.is_file():
            self.say(f"  unknown: {old.path.name} does not exist")
            return
        try:
            found = changes(old, self.archive)
        except (ArchiveError, KeyError) as error:  # what is live keeps nobody from replacing it
            found = [f"unknown: {old.path.name} cannot be read ({error})"]
        for line in found or ["none in classes, preprocessing, network or metrics"]:
            self.say(f"  {line}")

    def _stands(self) -> bool:
        """Return whether the version is there and READY; one that is not, such as a kept one that died, goes first."""
        try:
            ready = self.client.describe(self.name, self.version).ready
        except NotFound:
            return False
        if not ready:
            self.say(f"  {self.version} is registered and not READY: registering it again")
            self._remove(self.version)
        return ready

    @contextlib.contextmanager
    def _loading(self) -> Iterator[Callable[[], ModelStatus]]:
        """Give a function that waits for the workers which the block starts, on half of the cores until then."""
        with affinity.loading(state.running(self.root)) as keep:

            def alive() -> bool:
                keep()
                return state.running(self.root) is not None

            yield lambda: wait_ready(self.client, [(self.name, self.version)], alive=alive, timeout=self.limits.load)[0]

    def _scale(self) -> None:
        """Give it the workers that it is to have, one after the other."""
        there = self.client.describe(self.name, self.version).min_workers
        for count in range(there + 1, self._workers() + 1):
            with self._loading() as ready:
                self.client.scale(self.name, self.version, count)
                ready()

    def _workers(self) -> int:
        """Return how many it is to have: as its archive says, or its part of the machine.

        That is no more than each model got when the server started: fewer models may have shared the machine then. The
        number that config.properties says stays that of a model which is replaced.
        """
        if own := self.archive.model_config().get("minWorkers"):
            return int(own)
        running = state.running(self.root)
        each = running.workers if running else 1
        if running and self.before and _says_workers(Path(running.config or self.root / CONFIG)):
            return each
        return min(each, Shares.of_this_machine(len(self.client.models())).workers)

    def _ask_each(self, exam: Exam) -> None:
        """Have every worker answer before a caller asks it: what a process does for the first time takes it longer.

        Workers that wait take requests in turns.
        """
        if exam.golden:
            for number in range(2 * len(self.client.describe(self.name, self.version).workers)):
                exam.ask(self.client, self.name, self.version, number=number)

    def _exam(self, archive: Archive) -> Exam:
        precision = self.client.description(self.name, archive.version)["precision"]
        return Exam(archive.golden(), archive.spec()["classes"], precision)

    def _compare(self) -> Exam:
        """Hold the new version's answers and latency to what they should be; return its exam.

        An archive without golden images has nothing to be held to.
        """
        exams = {self.version: self._exam(self.archive)}
        if self.before is not None and self.client.describe(self.name, self.before.version).ready:
            # The same images for both, whose answers are the new version's alone to get right.
            exams[self.before.version] = dataclasses.replace(exams[self.version], judged=False)
        if not exams[self.version].golden:
            self.say("  no golden images in this archive: its answers are not checked")
            return exams[self.version]
        found = golden_check.seconds(self.client, exams, self.name, self.limits.rounds)
        new, old = found[self.version], found.get(self.before.version) if self.before else None
        if len(found) < len(exams):
            self.say("  the live version does not answer these images: latency is not compared")
        self.say(f"  {new * 1e3:.1f} ms per answer" + (f", {old * 1e3:.1f} ms live" if old is not None else ""))
        if old is not None and new > self.limits.slower * old + self.limits.grace:
            raise DeployError(
                f"it is too slow: {new * 1e3:.0f} ms per answer, the live version {old * 1e3:.0f} ms "
                f"(allowed: {self.limits.slower:g} times and {self.limits.grace * 1e3:.0f} ms)"
            )
        return exams[self.version]

    def _watch(self, exam: Exam) -> None:
        deadline = time.monotonic() + self.limits.watch
        first = [each.pid for each in self.client.describe(self.name, self.version).workers]
        number = 0
        while True:
            status = self.client.describe(self.name, self.version)
            if not status.ready or [each.pid for each in status.workers] != first:
                raise DeployError("a worker died")
            if exam.golden:
                answer = exam.ask(self.client, self.name, number=number)
                if answer.version not in (self.version, None):
                    raise DeployError(f"version {answer.version} answers")
            number += 1
            if time.monotonic() > deadline:
                return
            time.sleep(0.25)

    def _drain(self, kept: str | None) -> None:
        """Remove what is neither live nor kept; the deployment stands whatever comes of that."""
        gone = {self.before.version, self.before.before} - {kept, self.version, None} if self.before else set()
        for version in sorted(filter(None, gone)):
            try:
                self._remove(version)
            except (ClientError, OSError) as error:
                self.say(f"  {version} is not removed ({error}): the next deployment tries again")

    def _remove(self, version: str) -> None:
        archive = Archive(self.name, version, model_store.path_of(self.name, version, self.archive.path.parent))
        try:
            image = next((each.image for each in archive.golden()), b"")
        except ArchiveError:  # it may be why this version goes
            image = b""
        with contextlib.suppress(NotFound):
            remove(self.client, self.name, version, image)
