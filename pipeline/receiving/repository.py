"""A bare repository that tests and deploys its branch: its hook, its settings, and a checkout of one commit."""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

CODE = Path(__file__).resolve().parents[2]
MODULE, MARK = "pipeline.receive", "# Written by python -m pipeline.receive"
FOLDER = "sightline"  # in the bare repository
COMMANDS = ("make check", "make test")
PYTHON = ".venv/bin/python"


class RepositoryError(Exception):
    """A repository cannot be used; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class RepositorySettings:
    """The settings of a repository, in the section `sightline` of its git configuration.

    `root` is the serving folder, `commands` are the tests of a commit and `python` builds its archives, both in its
    checkout. With `fleet`, an address, its servers get the versions; with `key`, a private key signs the archives. The
    newest `archives` archives of a model stay.
    """

    root: Path
    branch: str = "main"
    commands: tuple[str, ...] = COMMANDS
    python: str = PYTHON
    fleet: str = ""
    key: str = ""
    archives: int = 5

    def entries(self) -> Iterable[tuple[str, str]]:
        """Yield each entry of the configuration."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for text in value if isinstance(value, tuple) else (value,):
                yield field.name, str(text)

    @classmethod
    def of_entries(cls, entries: Iterable[tuple[str, str]]) -> Self:
        """Return the settings with these entries.

        Raises:
            KeyError, ValueError: one is missing, or cannot be read.
        """
        values: dict[str, list[str]] = {}
        for name, text in entries:
            values.setdefault(name, []).append(text)
        texts: dict[str, Any] = {name: values[name][-1] for name in ("branch", "python", "fleet", "key")}
        root, archives = Path(values["root"][-1]), int(values["archives"][-1])
        return cls(root, commands=tuple(values.get("commands", ())), archives=archives, **texts)


@dataclasses.dataclass(frozen=True, slots=True)
class Repository:
    """The bare repository in a folder."""

    path: Path

    @property
    def folder(self) -> Path:
        """Return the folder of the checkout, the logs and the lock."""
        return self.path / FOLDER

    @property
    def checkout(self) -> Path:
        """Return the folder in which a commit is tested; what git ignores in it stays from push to push."""
        return self.folder / "checkout"

    def set_up(self, settings: RepositorySettings) -> None:
        """Make the repository if it does not exist, and write its settings and its hook.

        Raises:
            RepositoryError: the folder is in use for something else.
        """
        hook = self.path / "hooks" / "post-receive"
        if hook.exists() and MARK not in hook.read_text(errors="replace"):
            raise RepositoryError(f"{hook} is the hook of another program: move it away, or name another repository")
        if self.path.exists() and any(self.path.iterdir()):
            if not (self.path / "HEAD").is_file() or self.git("config", "core.bare") != "true":
                raise RepositoryError(f"{self.path} is not a bare repository: name a new folder")
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            self.git("init", "--quiet", "--bare", f"--initial-branch={settings.branch}")
        self.folder.mkdir(exist_ok=True)
        if self._entries():
            self.git("config", "--remove-section", FOLDER)
        for name, text in settings.entries():
            self.git("config", "--add", f"{FOLDER}.{name}", text)
        hook.parent.mkdir(exist_ok=True)
        command = shlex.join([sys.executable, "-m", MODULE, str(self.path), "--hook"])
        code = shlex.quote(str(CODE))
        hook.write_text(
            f"#!/bin/sh\n{MARK}: it tests what is pushed, and deploys the models that it changes.\n"
            f"cd {shlex.quote(str(settings.root))} && PYTHONPATH={code} exec {command}\n"
        )
        hook.chmod(0o755)

    def settings(self) -> RepositorySettings:
        """Return the settings.

        Raises:
            RepositoryError: this repository was not set up, or its settings cannot be read.
        """
        try:
            return RepositorySettings.of_entries(self._entries())
        except (KeyError, ValueError) as error:
            again = f"python -m {MODULE} {self.path}"
            raise RepositoryError(
                f"{self.path} has no settings for deployments ({error}): set it up ({again})"
            ) from error

    def _entries(self) -> list[tuple[str, str]]:
        text = self.git("config", "--null", "--get-regexp", rf"^{FOLDER}\.", check=False)
        lines = [entry.partition("\n") for entry in text.split("\0") if entry]
        return [(name.partition(".")[2], value) for name, _, value in lines]

    def tip(self, branch: str) -> str:
        """Return the commit of a branch, empty without the branch."""
        return self.git("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}", check=False)

    def check_out(self, commit: str) -> None:
        """Have the checkout hold a commit: no change of a tracked file, no other file but ignored ones.

        The caller holds the lock: an index.lock is that of a push which was killed.

        Raises:
            RepositoryError: git cannot do it.
        """
        (self.path / "worktrees" / self.checkout.name / "index.lock").unlink(missing_ok=True)
        if (self.checkout / ".git").is_file():
            self.git("checkout", "--quiet", "--force", "--detach", commit, folder=self.checkout)
            self.git("clean", "-ffdq", folder=self.checkout)
        else:
            shutil.rmtree(self.checkout, ignore_errors=True)
            self.git("worktree", "prune")
            self.git("worktree", "add", "--quiet", "--force", "--detach", str(self.checkout), commit)

    def git(self, *arguments: str, folder: Path | None = None, check: bool = True) -> str:
        """Return the output of a git command, by default in the repository.

        Raises:
            RepositoryError: it failed, and `check` is set.
        """
        command = ["git", "-C", str(folder or self.path), *arguments]
        process = subprocess.run(command, env=environment(), capture_output=True, text=True)
        if check and process.returncode:
            reason = (process.stderr.strip().splitlines() or ["no output"])[-1]
            raise RepositoryError(f"{' '.join(command[:4])} failed: {reason}")
        return process.stdout if "--null" in arguments else process.stdout.strip()


def environment() -> dict[str, str]:
    """Return the environment for commands in a checkout: without the hook's repository, and without our own code."""
    return {
        name: value
        for name, value in os.environ.items()
        if not re.match(r"GIT_|MAKE(FLAGS|LEVEL)$|MFLAGS$|PYTHONPATH$", name)
    }
