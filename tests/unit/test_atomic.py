"""Files that are there whole or not at all."""

import json
import os
import stat
from pathlib import Path

import pytest

from handlers import atomic, process


def test_a_file_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.json"
    atomic.write_json(path, {"a": 1})
    atomic.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
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
