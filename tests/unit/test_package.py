"""The same inputs give the same archive, byte for byte, and nothing of where, when or by whom it was built."""

import datetime as dt
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from serving import archive
from serving.store import model_store, package, provenance
from serving.store.model_store import ArchiveError
from tests.unit.archived_run import write_run

ROOT = Path(__file__).parents[2]
# What is built here has no weights: there is nothing to rehearse.
build = partial(archive.build, rehearse=False)
# Builds in a process of its own, with another umask, from a copy of the handlers whose files were written in another
# order and stand beside files that are no part of the package.
ELSEWHERE = """
import os, sys
from pathlib import Path
from serving import archive
from serving.store import package

os.umask(0o077)
package.HANDLERS = Path(sys.argv[1])
archive.build("fingers", "1.0", runs=Path(sys.argv[2]), store=Path(sys.argv[3]), rehearse=False)
"""


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def build_elsewhere(folder: Path, **environment: str) -> Path:
    """Build what `write_run` wrote, in another place, and return the store."""
    handlers = folder / "copied" / "handlers"
    (handlers / "__pycache__").mkdir(parents=True)
    for path in sorted(package.HANDLERS.rglob("*.py"), reverse=True):
        copied = handlers / path.relative_to(package.HANDLERS)
        copied.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copied)
    (handlers / "__pycache__" / "spec.cpython-311.pyc").write_bytes(b"compiled")
    (handlers / "notes.txt").write_text("of an editor")
    runs = write_run(folder / "other runs")
    for path in (*handlers.rglob("*.py"), *(runs / "fingers").iterdir()):
        os.utime(path, (86_400, 86_400))
        path.chmod(0o700)
    arguments = [str(handlers), str(runs), str(folder / "other store")]
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", ELSEWHERE, *arguments]
    subprocess.run(command, cwd=folder, env=variables, check=True, capture_output=True, timeout=60)
    return folder / "other store"


def digests(store: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in store.iterdir()}


def test_two_builds_in_two_folders_at_two_times_are_the_same(tmp_path: Path) -> None:
    first = build("fingers", "1.0", runs=write_run(tmp_path / "runs"), store=tmp_path / "store").path
    while time.time() < first.stat().st_mtime + 2:  # a zip's times have steps of two seconds
        time.sleep(0.1)
    other = build_elsewhere(tmp_path, PYTHONHASHSEED="7", TZ="Asia/Tokyo", LC_ALL="C")
    assert digests(first.parent) == digests(other)
    assert set(digests(other)) == {"fingers-1.0.mar", "fingers-1.0.json"}


def test_another_input_is_another_archive(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs")
    build("fingers", "1.0", runs=runs, store=tmp_path / "store")
    build("fingers", "1.0", runs=runs, store=tmp_path / "settings", overrides=["batchSize=3"])
    (runs / "fingers" / "golden.json").write_text("[]")
    build("fingers", "1.0", runs=runs, store=tmp_path / "golden")
    found = {digests(tmp_path / each)["fingers-1.0.mar"] for each in ("store", "settings", "golden")}
    assert len(found) == 3


def test_members_are_sorted_stored_and_of_one_time_and_permission(tmp_path: Path) -> None:
    built = build("fingers", "1.0", runs=write_run(tmp_path / "runs"), store=tmp_path / "store")
    with zipfile.ZipFile(built.path) as file:
        members = file.infolist()
    assert [member.filename for member in members] == sorted(member.filename for member in members)
    assert {(member.date_time, member.external_attr >> 16, member.compress_type) for member in members} == {
        ((1980, 1, 1, 0, 0, 0), 0o100644, zipfile.ZIP_STORED)
    }


def test_the_manifest_is_of_the_commit_s_date_or_of_the_one_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def created_on(version: str) -> str:
        built = build("fingers", version, runs=tmp_path / "runs", store=tmp_path / "store")
        with zipfile.ZipFile(built.path) as file:
            return str(json.loads(file.read(package.MANIFEST))["createdOn"])

    write_run(tmp_path / "runs")
    monkeypatch.delenv(provenance.DATE_VARIABLE, raising=False)
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    committed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    date = dt.datetime.fromtimestamp(int(committed), dt.UTC) if committed else provenance.OLDEST
    assert created_on("1.0") == date.strftime("%d/%m/%Y %H:%M:%S")
    monkeypatch.setenv(provenance.DATE_VARIABLE, "86399")
    assert created_on("1.1") == "01/01/1970 23:59:59"
    monkeypatch.delenv(provenance.DATE_VARIABLE)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "no checkout"))
    assert created_on("1.2") == "01/01/1980 00:00:00"


@pytest.mark.parametrize("seconds", ["yesterday", "1e9", "9" * 30])
def test_a_date_that_is_none_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv(provenance.DATE_VARIABLE, seconds)
    with pytest.raises(ArchiveError, match=rf"SOURCE_DATE_EPOCH={seconds} is not a number of seconds"):
        build("fingers", "1.0", runs=write_run(tmp_path / "runs"), store=tmp_path / "store")
    assert not model_store.archives(tmp_path / "store")


def test_a_failing_archiver_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "ARCHIVER", "raise SystemExit('no space left on device')")
    with pytest.raises(ArchiveError, match="torch-model-archiver failed: no space left on device"):
        build("fingers", "1.0", runs=write_run(tmp_path / "runs"), store=tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []
