"""Files of a raw folder that no record is made of, so that every file there is used or named."""

import posixpath
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from training.data.index import Index, Unread
from training.data.readers.folder import is_clutter, walk

# Of one folder; more are named together.
_NAMED_EACH = 100

SYSTEM, NOT_READ, NO_FILE = "hidden or a system's own", "not read", "not a file"


class _Whole(NamedTuple):
    """A folder of which nothing is read, with what was counted in it so far."""

    path: str
    reason: str
    files: int


def unread(raw: Path, lists: Collection[str], index: Index) -> Iterator[Unread]:
    """Yield what no record in `index` and no list of the reader accounts for, the folders of `raw` in order.

    A folder of which nothing is read is one item, with the number of files in it and below.
    """
    whole: _Whole | None = None
    for folder, entries in walk(raw):
        if whole is not None and folder.startswith(f"{whole.path}/"):
            whole = whole._replace(files=whole.files + len(entries))
            continue
        if whole is not None:
            yield from _counted(whole)
        whole = None
        shown = _shown(folder)
        if folder and not any(path.startswith(f"{shown}/") for path in lists) and not index.reads_below(shown):
            clutter = any(map(is_clutter, folder.split("/")))
            whole = _Whole(folder, SYSTEM if clutter else NOT_READ, len(entries))
            continue
        paths = {_shown(posixpath.join(folder, entry.name)): entry for entry in entries}
        left = {path: entry for path, entry in paths.items() if path not in lists}
        for path in index.read_among(list(left)):
            del left[path]
        by_reason: dict[str, list[str]] = {}
        for path, entry in left.items():
            reason = NO_FILE if not entry.is_file() else SYSTEM if is_clutter(entry.name) else NOT_READ
            by_reason.setdefault(reason, []).append(path)
        for reason, names in by_reason.items():
            if len(names) > _NAMED_EACH:
                yield Unread(f"{shown or '.'}/", len(names), reason, f"{len(names):,} files, first {names[0]}")
            else:
                yield from (Unread(name, 1, reason, None) for name in names)
    if whole is not None:
        yield from _counted(whole)


def _counted(whole: _Whole) -> Iterator[Unread]:
    if whole.files:
        files = f"{whole.files:,} file{'' if whole.files == 1 else 's'}"
        yield Unread(f"{_shown(whole.path)}/", whole.files, whole.reason, files)


def _shown(path: str) -> str:
    """Return a path as UTF-8 can hold it."""
    return path if path.isascii() else path.encode(errors="surrogateescape").decode(errors="backslashreplace")
