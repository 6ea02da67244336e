"""Every file of a raw folder without a record is named: by itself, with its folder, or in a line with many others."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from training.data.index import Index, Unread
from training.data.records import RawDataset, Record
from training.data.unread import unread


def unread_of(raw: Path, used: Iterable[str], present: Iterable[str], lists: tuple[str, ...] = ()) -> list[Unread]:
    """Return the unread items of a raw folder with the files `present`, of which records name those of `used`."""
    for path in {*used, *present, *lists}:
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        (raw / path).write_text(path)
    records = [Record(path, "train", "cat", path) for path in used]
    with Index(raw.with_name("index.sqlite"), writable=True) as index:
        index.create("key")
        assert list(index.add(RawDataset(("cat",), records))) == [len(records)]
        with index.by_path():
            return list(unread(raw, lists, index))


def test_folders_whose_names_begin_alike_are_counted_apart(tmp_path: Path) -> None:
    items = unread_of(tmp_path / "raw", ["cat/1.jpg"], ["old/1.jpg", "old/deep/2.jpg", "old 2/1.jpg", "zoo/1.jpg"])
    assert {item.path: item.files for item in items} == {"old/": 2, "old 2/": 1, "zoo/": 1}
    assert [item.detail for item in items if item.path == "old/"] == ["2 files"]


def test_a_folder_of_lists_is_read(tmp_path: Path) -> None:
    items = unread_of(tmp_path / "raw", ["cat/1.jpg"], ["lists/notes.txt"], lists=("lists/train.txt",))
    assert [(item.path, item.files) for item in items] == [("lists/notes.txt", 1)]


@pytest.mark.parametrize(("files", "items"), [(100, 100), (101, 1)])
def test_more_than_a_hundred_files_beside_used_ones_are_one_item(files: int, items: int, tmp_path: Path) -> None:
    names = [f"cat/{number:03d}.txt" for number in range(files)]
    seen = unread_of(tmp_path / "raw", ["cat/1.jpg"], names)
    assert len(seen) == items and sum(item.files for item in seen) == files
