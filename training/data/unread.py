"""Files of a raw folder without a record, so that every file in it is either used or named."""

import json
import os
import posixpath
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from training.data.index import Index, Unread
from training.data.readers.folder import is_clutter, walk
from training.data.records import DRAWN

# Of one folder; more are summarised in one line.
_NAMED_EACH = 100

SYSTEM, NOT_READ, NO_FILE = "hidden or a system's own", "not read", "not a file"


class _Whole(NamedTuple):
    """An unread folder, with the number of files counted in it so far."""

    path: str
    reason: str
    files: int


def unread(raw: Path, lists: Collection[str], index: Index) -> Iterator[Unread]:
    """Yield what no record in `index` and no list of the reader accounts for, the folders of `raw` in order.

    A folder of which nothing is read is one item, with the number of files in it and below.
    """
    if _is_drawn(raw):
        lists = {*lists, DRAWN}
    whole: _Whole | None = None
    for folder, entries in walk(raw):
        if whole is not None and folder.startswith(f"{whole.path}/"):
            whole = whole._replace(files=whole.files + len(entries))
            continue
        yield from _counted(whole)
        whole = _unread_folder(folder, len(entries), lists, index)
        if whole is None:
            yield from _unread_files(folder, entries, lists, index)
    yield from _counted(whole)


def _is_drawn(raw: Path) -> bool:
    """Return whether `synthetic` drew these images: then the file that says so is ours, not an unread one."""
    try:
        return "images_per_class" in json.loads((raw / DRAWN).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _unread_folder(folder: str, files: int, lists: Collection[str], index: Index) -> _Whole | None:
    """Return a folder of which nothing is read, or None."""
    shown = _shown(folder)
    if not folder or any(path.startswith(f"{shown}/") for path in lists) or index.reads_below(shown):
        return None
    return _Whole(folder, SYSTEM if any(map(is_clutter, folder.split("/"))) else NOT_READ, files)


def _unread_files(
    folder: str, entries: Iterable[os.DirEntry[str]], lists: Collection[str], index: Index
) -> Iterator[Unread]:
    paths = {_shown(posixpath.join(folder, entry.name)): entry for entry in entries}
    listed = {*lists, *index.read_among([path for path in paths if path not in lists])}
    by_reason: dict[str, list[str]] = {}
    for path, entry in paths.items():
        if path not in listed:
            by_reason.setdefault(_reason(entry), []).append(path)
    for reason, names in by_reason.items():
        if len(names) > _NAMED_EACH:
            files = f"{len(names):,} files, first {names[0]}"
            yield Unread(f"{_shown(folder) or '.'}/", len(names), reason, files)
        else:
            yield from (Unread(name, 1, reason, None) for name in names)


def _reason(entry: os.DirEntry[str]) -> str:
    if not entry.is_file():
        return NO_FILE
    return SYSTEM if is_clutter(entry.name) else NOT_READ


def _counted(whole: _Whole | None) -> Iterator[Unread]:
    if whole is not None and whole.files:
        files = f"{whole.files:,} file{'' if whole.files == 1 else 's'}"
        yield Unread(f"{_shown(whole.path)}/", whole.files, whole.reason, files)


def _shown(path: str) -> str:
    """Return a path as UTF-8 can hold it."""
    return path if path.isascii() else path.encode(errors="surrogateescape").decode(errors="backslashreplace")
