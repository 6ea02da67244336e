"""What should be live, written down and read back."""

import json
from pathlib import Path

import pytest

from serving.store.live import FILE, Live, LiveModel
from serving.store.model_store import ArchiveError


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store with archives of two models (empty files: only their names are read)."""
    store = tmp_path / "model_store"
    store.mkdir()
    for name in ("a-1.0", "a-2.0", "a-3.0", "b-1.0", "b-10.0", "b-9.0"):
        (store / f"{name}.mar").touch()
    return store


def test_it_comes_back_as_it_was_written(store: Path) -> None:
    root = store.parent
    assert Live.read(root).models == {}
    live = Live({"a": LiveModel("2.0", "1.0")}).with_model("b", LiveModel("9.0"))
    live.write(root)
    assert Live.read(root) == live
    assert {path.suffix for path in store.iterdir()} == {".mar", ".json"}, "nothing temporary is left"


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"version": "1", "more": 1}}', '{"a": {"version":'])
def test_a_damaged_file_is_said(store: Path, text: str) -> None:
    (store / FILE).write_text(text)
    with pytest.raises(ArchiveError, match=r"live\.json is damaged .*remove it"):
        Live.read(store.parent)


def test_a_file_that_may_not_be_read_is_not_called_damaged(store: Path) -> None:
    (store / FILE).mkdir()  # as root, a test may read everything else
    with pytest.raises(ArchiveError, match=r"live\.json cannot be read: Is a directory"):
        Live.read(store.parent)


def test_a_start_with_names_is_those_alone(store: Path) -> None:
    live = Live({"a": LiveModel("2.0", "1.0"), "b": LiveModel("9.0", "1.0")})
    assert live.select(["a=2.0"], store)[0].models == {"a": LiveModel("2.0", "1.0")}
    assert Live({}).select([], store)[0].models == {"a": LiveModel("3.0"), "b": LiveModel("10.0")}


def test_a_name_without_a_version_is_what_is_live_or_else_the_newest(store: Path) -> None:
    rolled_back = Live({"a": LiveModel("2.0", "3.0")})
    for wanted in ("a", "a="):
        assert rolled_back.select([wanted, "b"], store)[0].models == {
            "a": LiveModel("2.0", "3.0"), "b": LiveModel("10.0"),
        }  # fmt: skip
    assert rolled_back.select(["a=3.0"], store)[0].models == {"a": LiveModel("3.0", "2.0")}


@pytest.mark.parametrize("version", ["1.0", "3.0"])
def test_another_version_than_the_live_one_keeps_that_one_for_a_rollback(store: Path, version: str) -> None:
    live = Live({"a": LiveModel("2.0", "1.0")})
    assert live.select([f"a={version}"], store)[0].models == {"a": LiveModel(version, "2.0")}
    (store / "a-2.0.mar").unlink()
    assert live.select([f"a={version}"], store)[0].models == {"a": LiveModel(version)}


def test_an_archive_that_is_gone_is_said_and_a_kept_one_is_forgotten(store: Path) -> None:
    (store / "a-1.0.mar").unlink()
    live = Live({"a": LiveModel("2.0", "1.0")})
    assert live.select(["a=2.0"], store)[0].models["a"] == LiveModel("2.0")
    (store / "a-2.0.mar").unlink()
    with pytest.raises(ArchiveError, match=r"no archive of a 2\.0"):
        live.select(["a=2.0"], store)


def test_what_others_changed_meanwhile_stays_and_the_rest_becomes_what_is_wanted() -> None:
    base = Live({"a": LiveModel("1.0"), "b": LiveModel("1.0"), "c": LiveModel("1.0")})
    now = Live({"a": LiveModel("2.0", "1.0"), "b": LiveModel("1.0"), "d": LiveModel("1.0")})
    wanted = Live({"a": LiveModel("3.0"), "c": LiveModel("2.0"), "e": LiveModel("1.0")})
    assert now.merged(base, wanted).models == {
        "a": LiveModel("2.0", "1.0"), "d": LiveModel("1.0"), "e": LiveModel("1.0"),
    }  # fmt: skip


def test_a_change_that_changes_nothing_writes_nothing(store: Path) -> None:
    assert Live.update(store.parent, lambda live: live) == Live({})
    assert not (store / FILE).exists()


def test_a_write_that_fails_leaves_the_old_text(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = store.parent
    Live({"a": LiveModel("1.0")}).write(root)

    def fail(*_: object, **__: object) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr("handlers.atomic.os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        Live({"a": LiveModel("2.0")}).write(root)
    assert json.loads((store / FILE).read_text())["a"]["version"] == "1.0"
    assert not list(store.glob(".*"))
