"""Files that are there whole or not at all."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from handlers import atomic, process


def test_a_file_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.json"
    atomic.write_json(path, {"a": 1})
    atomic.write_json(path, {"a": 2})
    assert path.read_text() == '{\n  "a": 2\n}\n'
    assert [each.name for each in path.parent.iterdir()] == ["state.json"]


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_text("old")

    def fail() -> None:
        with atomic.replacing(path) as part:
            assert part.name == path.name, "writers go by the suffix"
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(path, {"a": float("inf")})
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_goes_and_what_another_writes_stays(tmp_path: Path) -> None:
    parent = os.getppid()
    left, other = tmp_path / f".last.ckpt-{2**30}-abc", tmp_path / f".last.ckpt-{parent}-abc"
    reused = tmp_path / f".last.ckpt-{parent}.{process.created(parent) - 1}-abc"  # its id is another process's now
    writing = tmp_path / f".last.ckpt-{parent}.{process.created(parent)}-abc"
    for folder in (left, other, reused, writing):
        folder.mkdir()
        (folder / "last.ckpt").write_text("half")
    atomic.write_text(tmp_path / "last.ckpt", "whole")
    assert not left.exists() and not reused.exists() and other.exists() and writing.exists()


def test_others_may_read_it_where_they_may_read_what_this_user_writes(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    before = os.umask(0o022)
    try:
        atomic.write_text(path, "{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A new folder, and the old one that is to be replaced."""
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    return tmp_path / "new", tmp_path / "old"


def test_a_reader_always_sees_one_folder_or_the_other(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old = folders
    rename, seen = os.rename, []

    def look_and_rename(*names: Any, **options: Any) -> None:
        seen.append((old / "name").read_text())
        rename(*names, **options)
        seen.append((old / "name").read_text())

    monkeypatch.setattr(os, "rename", look_and_rename)
    atomic.replace_folder(new, old)
    assert seen == ["new", "new"], "the new one is in its place before anything else is moved"
    assert [each.name for each in old.parent.iterdir()] == ["old"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_a_folder_is_replaced_where_names_cannot_be_swapped(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*names: Path) -> None:
        raise OSError(number, "no")

    new, old = folders
    monkeypatch.setattr(atomic, "_exchange", refuse)
    atomic.replace_folder(new, old)
    assert (old / "name").read_text() == "new" and [each.name for each in old.parent.iterdir()] == ["old"]


def test_a_folder_is_put_where_there_was_none(folders: tuple[Path, Path]) -> None:
    new, old = folders
    (old / "name").unlink()
    old.rmdir()
    atomic.replace_folder(new, old)
    assert (old / "name").read_text() == "new" and not new.exists()


def test_names_are_swapped_also_where_they_are_relative(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old = folders
    monkeypatch.chdir(new.parent)
    atomic._exchange(Path("new"), Path("old"))
    assert [(folder / "name").read_text() for folder in (new, old)] == ["old", "new"]


def test_names_that_cannot_be_swapped_say_why(folders: tuple[Path, Path]) -> None:
    new, old = folders
    with pytest.raises(FileNotFoundError) as caught:
        atomic._exchange(new, old.with_name("none"))
    assert (caught.value.filename, caught.value.filename2) == (str(new), str(old.with_name("none")))
    assert (new / "name").read_text() == "new"


@pytest.mark.parametrize("number", [None, errno.EPERM, errno.EOPNOTSUPP])
def test_a_name_is_given_once_also_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    def refuse(*names: Path) -> None:
        assert number is not None
        raise OSError(number, os.strerror(number))

    if number is not None:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "a-1.0.mar"
    for text in ("first", "second"):
        (tmp_path / text).write_text(text)
    atomic.name_once(tmp_path / "first", path)
    with pytest.raises(FileExistsError) as caught:
        atomic.name_once(tmp_path / "second", path)
    assert caught.value.errno == errno.EEXIST and str(path) in (caught.value.filename, caught.value.filename2)
    assert path.read_text() == "first"
