"""A clone with the code that archives are built by, and real pushes of it to a bare repository."""

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline import receive
from pipeline.receiving.repository import Repository, RepositorySettings
from serving.store.package import HANDLERS

TEST = "-m compileall -q handlers"  # a test of a commit that takes no time
# Two lines of handlers/preprocessing.py, the second one with an error that changes answers.
CHANNELS = "for image, row in zip(images, rows, strict=True):"
SWAPPED = "for image, row in zip([image.flip(0) for image in images], rows, strict=True):"


@dataclasses.dataclass(frozen=True, slots=True)
class Clone:
    """A clone of a bare repository that deploys to the server of a folder."""

    folder: Path
    repository: Repository

    @classmethod
    def of(cls, folder: Path, root: Path) -> "Clone":
        """Return one that deploys to the server of `root`; the code of this checkout is in it, not committed yet."""
        repository = Repository(folder / "birds.git")
        settings = RepositorySettings(root, commands=(f"{sys.executable} {TEST}",), python=sys.executable)
        receive.set_up(repository, settings)
        clone = cls(folder / "clone", repository)
        for package in ("handlers", "serving"):
            source = HANDLERS.parent / package
            shutil.copytree(source, clone.folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        (clone.folder / ".gitignore").write_text("__pycache__/\n")
        clone.git("init", "--quiet", "--initial-branch=main")
        return clone

    def git(self, *arguments: str) -> str:
        """Return the output of git in the clone."""
        process = subprocess.run(self._command(*arguments), capture_output=True, text=True, check=True, timeout=300)
        return process.stdout.strip()

    def change(self, file: str, text: str, replacement: str = "") -> None:
        """Replace `text` in a file; without `replacement`, add it at the end."""
        path = self.folder / file
        path.parent.mkdir(exist_ok=True)
        before = path.read_text() if path.exists() else ""
        if replacement and before.count(text) != 1:
            raise ValueError(f"{file} has {text!r} {before.count(text)} times, not once")
        path.write_text(before.replace(text, replacement) if replacement else before + text)

    def commit(self) -> str:
        """Commit all changes; return the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "a change")
        return self.git("rev-parse", "HEAD")

    def push(self, line: Callable[[str], object] = lambda _: None) -> list[str]:
        """Push the last commit; return the hook's lines, each of which `line` gets at once."""
        lines = []
        command = self._command("push", str(self.repository.path), "main")
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for text in process.stderr:
                if text.startswith("remote: "):
                    lines.append(text.removeprefix("remote: ").rstrip())
                    line(lines[-1])
        if process.returncode:
            raise RuntimeError(f"git push failed: exit status {process.returncode}")
        return lines

    def _command(self, *arguments: str) -> list[str]:
        return ["git", "-C", str(self.folder), "-c", "user.name=Ann", "-c", "user.email=ann@example.com", *arguments]
