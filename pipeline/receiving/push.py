"""One push: check out, test, build, deploy, and undo all of it if a step fails."""

import contextlib
import json
import shlex
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import filelock

from handlers import atomic, process
from handlers.run_folder import RUNS
from pipeline.receiving import command, commit_models
from pipeline.receiving.command import CommandError
from pipeline.receiving.commit_models import ModelsError
from pipeline.receiving.progress import Progress
from pipeline.receiving.repository import Repository, RepositoryError
from pipeline.receiving.targets import FleetTarget, ServerTarget, Target, protected
from serving.errors import ServingError
from serving.lifecycle.deployment import INTERRUPTS
from serving.store import model_store, prune, signature
from serving.store.model_store import Archive

LOCK, STATE, VERSIONS = "lock", "push.json", "versions.json"
SHORT = 12  # characters of a commit
TESTED = "tests passed"
FAILURES = (CommandError, RepositoryError, ModelsError, ServingError, OSError)


class Push:
    """The push of `commit` to a repository; `progress` gets each line.

    Raises:
        RepositoryError: the repository was not set up.
    """

    def __init__(self, repository: Repository, commit: str, progress: Progress) -> None:
        self.repository, self.commit, self.progress = repository, commit, progress
        self.settings = repository.settings()
        self.root, self.say = self.settings.root, progress.line
        fleet = self.settings.fleet
        self.target: Target = FleetTarget(fleet, self.root, self.say) if fleet else ServerTarget(self.root, self.say)
        self._state: dict[str, Any] = {"commit": commit, "archives": [], "process": None}
        self._is_interrupted = self._is_starting = False
        self._not_undone: list[tuple[str, str]] = []

    def run(self) -> bool:
        """Do it, one push at a time; return whether the commit is live, or changes no model.

        Of the pushes that wait only the newest one is tested.
        """
        start_time = time.monotonic()
        short = self.commit[:SHORT]
        with self._interruptible():
            try:
                with self._turn():
                    tip = self.repository.tip(self.settings.branch)
                    if tip != self.commit:
                        self.say(f"{short} is not tested: {tip[:SHORT] or 'nothing'} has taken its place")
                        return False
                    result = self._run()
            except (*FAILURES, KeyboardInterrupt) as error:
                reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error).rstrip(".")
                self.say(f"error: {short} is not live: {reason}")
                return False
        self.say(f"{short} {result} ({time.monotonic() - start_time:.0f} s)")
        return True

    def _run(self) -> str:
        """Do each step; return the result."""
        self._clear()
        try:
            self._test()
            changes = self._build()
            self._deploy(changes)
        except BaseException:
            self._remove(self._state)
            raise
        finally:
            self._end()
        for change in changes:
            try:
                self.target.prune(change.name, self.settings.archives)
            except FAILURES as error:
                self.say(f"warning: old archives of {change.name} stay ({error})")
        if not changes:
            return "changes no model: nothing is deployed"
        return f"is live: {', '.join(f'{change.name} {change.version}' for change in changes)}"

    def _end(self) -> None:
        """Leave nothing to the next push but what could not be undone."""
        file = self.repository.folder / STATE
        if self._not_undone:
            atomic.write_json(file, {**self._state, "process": None, "undo": self._not_undone})
        else:
            file.unlink(missing_ok=True)

    def _test(self) -> None:
        self.repository.check_out(self.commit)
        # A run that an older commit has left there would be taken before that of the serving folder.
        shutil.rmtree(self.repository.checkout / RUNS, ignore_errors=True)
        for text in self.settings.commands:
            self.say(f"{text} ...")
            self._execute(shlex.split(text), f"{text} failed")
        self.say(TESTED)
        self.repository.check_out(self.commit)  # without the changes of the tests

    def _build(self) -> list[Archive]:
        """Return a new archive of each model that the commit changes."""
        live, changes, checkout = self.target.live(), list[Archive](), self.repository.checkout
        for name, model in live.items():
            self.target.fetch(name, model.version)
        used = self._read(VERSIONS)
        for candidate in commit_models.candidates(checkout, self.root, live, used, self.say):
            archive = candidate.archive
            self._state["archives"].append((archive.name, archive.version))
            self.say(f"building {archive.name} {archive.version} ...")
            words = candidate.command(checkout / self.settings.python, self.root)
            self._execute(words, f"no archive of {archive.name} can be built")
            if archive.path.is_file():
                if not self._is_of(archive, self.commit):
                    raise ModelsError(f"somebody else has built {archive.name} {archive.version}: push again (--again)")
                changes.append(archive)
                used[archive.name] = archive.version
                atomic.write_json(self.repository.folder / VERSIONS, used)
                if self.settings.key:
                    signature.sign(archive, Path(self.settings.key))
        return changes

    def _deploy(self, changes: Sequence[Archive]) -> None:
        """Deploy the versions one after the other; if one fails, undo those before it."""
        with contextlib.ExitStack() as undo:
            for change in changes:
                self.say(f"deploying {change.name} {change.version} ...")
                undo.callback(self._undo, change.name, change.version)  # an interrupt may come after the switch
                self.target.deploy(change.name, change.version)
                if self._is_interrupted:  # after the switch a deployment does not stop
                    raise KeyboardInterrupt
            undo.pop_all()

    def _undo(self, name: str, version: str) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)  # a second interrupt waits until this is done
        try:
            if self.target.undo(name, version):
                self.say(f"undone: {name} {version}")
        except (ServingError, OSError) as error:
            self._not_undone.append((name, version))
            self.say(f"not undone: {name} {version} ({error}); the next push tries it again")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        lock = filelock.FileLock(self.repository.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            self.say("another push is under way: waiting for its end ...")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Raise KeyboardInterrupt at Ctrl-C and requests to end."""

        def interrupt(number: int, frame: FrameType | None) -> None:
            self._is_interrupted = True
            if not self._is_starting:
                raise KeyboardInterrupt

        before = {number: signal.signal(number, interrupt) for number in INTERRUPTS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _execute(self, words: Sequence[str], failure: str) -> None:
        """Run a command in the checkout.

        Raises:
            CommandError: it fails.
        """

        def started(pid: int, created: int) -> None:
            self._state["process"] = (pid, created)
            atomic.write_json(self.repository.folder / STATE, self._state)
            self._is_starting = False
            if self._is_interrupted:
                raise KeyboardInterrupt

        self._is_starting = True  # an interrupt within that would leave a process that nobody ends
        try:
            command.run(words, self.repository.checkout, self.progress.output, started)
        except CommandError as error:
            raise CommandError(f"{failure}: {error}") from error
        finally:
            self._is_starting = False

    def _clear(self) -> None:
        """End the processes and remove the archives of a killed push; undo versions that are still to be undone."""
        document = self._read(STATE)
        if document.get("process") and process.runs(*document["process"]):
            command.end(document["process"][0])
        for name, version in document.get("undo", []):
            self._undo(name, version)
        self._remove(document)

    def _read(self, file: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.repository.folder / file).read_text()))
        except (OSError, ValueError):
            return {}

    def _remove(self, state: Mapping[str, Any]) -> None:
        """Remove the archives of a push that are neither live nor the version before a live one."""
        for name, version in state.get("archives", []):
            archive = Archive(name, version, model_store.path_of(name, version, self.root / model_store.FOLDER))
            try:
                if self._is_of(archive, state["commit"]) and version not in protected(self.target, name):
                    prune.delete(archive)
            except FAILURES as error:
                self.say(f"warning: {archive.path.name} stays ({error})")

    def _is_of(self, archive: Archive, commit: str) -> bool:
        """Return whether an archive exists, and that commit has built it."""
        return archive.path.is_file() and str(archive.provenance().get("commit")).rstrip("+") == commit
