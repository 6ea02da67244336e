"""A clone with the code that archives are built by, and real pushes of it to a bare repository."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline import receive
from pipeline.receiving.repository import Repository, RepositorySettings
from tests.server.conftest import ROOT

TEST = "-m compileall -q handlers"  # a test of a commit that takes no time


@dataclasses.dataclass(frozen=True, slots=True)
class Clone:
    """A clone of a bare repository that deploys to the server of `root`."""

    folder: Path
    repository: Repository

    @classmethod
    def of(cls, folder: Path, root: Path) -> "Clone":
        """Return one with the code of this checkout, not committed yet."""
        repository = Repository(folder / "birds.git")
        settings = RepositorySettings(root, commands=(f"{sys.executable} {TEST}",), python=sys.executable)
        receive.set_up(repository, settings)
        clone = cls(folder / "clone", repository)
        for name in ("handlers", "serving"):
            shutil.copytree(ROOT / name, clone.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (clone.folder / ".gitignore").write_text("__pycache__/\n")
        clone.git("init", "--quiet", "--initial-branch=main")
        return clone

    def git(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run git in the clone."""
        command = ["git", "-C", str(self.folder), "-c", "user.name=Ann", "-c", "user.email=ann@example.com", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)

    def change(self, file: str, text: str, replacement: str = "") -> None:
        """Replace `text` in a file; without `replacement`, it is added to its end."""
        path = self.folder / file
        path.parent.mkdir(exist_ok=True)
        before = path.read_text() if path.exists() else ""
        assert not replacement or before.count(text) == 1
        path.write_text(before.replace(text, replacement) if replacement else before + text)

    def push(self) -> tuple[str, list[str]]:
        """Commit all and push it; return the commit and the lines that the pusher sees."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "a change")
        said = self.git("push", str(self.repository.path), "main").stderr
        lines = [line.removeprefix("remote: ").rstrip() for line in said.splitlines() if line.startswith("remote: ")]
        return self.git("rev-parse", "HEAD").stdout.strip(), lines
