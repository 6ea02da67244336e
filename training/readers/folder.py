"""Folders of image files and the lists beside them: reading them, refusing what cannot be one, making records.

Hidden files and folders are passed over. Any other file in a class folder becomes a record, whatever its suffix, so
that `prepare` reports by name what turns out not to be an image.
"""

import itertools
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from training.records import DatasetError, Record, Split

# Only used to tell a folder without any image from one with images; "" is for files without a suffix.
IMAGE_SUFFIXES = frozenset(
    ["", ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"]
)
_CLUTTER = frozenset(["thumbs.db", "desktop.ini"])
# A folder of which a list names fewer files than this is asked for each file rather than listed in full.
_FEW = 64
_BATCH = 20_000


class Listing(NamedTuple):
    """The names in one folder, sorted, without hidden ones."""

    files: list[str]
    folders: list[str]


def listing(folder: Path) -> Listing:
    """Return what stands in `folder`; only this one folder is held in memory.

    Raises:
        DatasetError: the folder is missing or cannot be read, a link leads nowhere, or a name is not UTF-8.
    """
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _CLUTTER:
                    continue
                if not entry.name.isascii():
                    _check_name(folder, entry.name)
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file():
                    files.append(entry.name)
                elif entry.is_symlink():
                    raise DatasetError(f"{folder / entry.name} is a link that leads nowhere. Mend or delete it")
    except OSError as error:
        raise DatasetError(
            f"folder {folder} cannot be read: {error.strerror}. Give a folder that is there with RAW=<folder>"
        ) from error
    return Listing(sorted(files), sorted(folders))


def _check_name(folder: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f"{folder}: the name {name!r} is not UTF-8. Rename it") from error


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file in UTF-8 without their ends; only one is held at a time.

    Raises:
        DatasetError: the file cannot be read, or is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                yield line.removesuffix("\n")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text. Save it as UTF-8, or get it again") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}. Get it again, or mend its permissions") from error


def wrong_layout(raw: Path, dataset: str, expected: str) -> DatasetError:
    """Return the error for a folder that is not laid out as `expected`; it names what stands there instead."""
    found = listing(raw)
    names = [*found.files, *(f"{name}/" for name in found.folders)]
    if not names:
        return DatasetError(f"folder {raw} is empty. Put {expected} there, or give the right folder with RAW=<folder>")
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return DatasetError(
        f"{raw} is not laid out as {dataset}: it holds {', '.join(names[:3])}{more}. "
        f"Give a folder that holds {expected} with RAW=<folder>, or choose the DATASET that fits this one"
    )


def check_class_folders(folder: Path, labels: Sequence[str]) -> None:
    """Refuse a folder with fewer than two classes, or a class folder without an image.

    Raises:
        DatasetError: names the folder and what to do.
    """
    if len(labels) < 2:
        inner = f", or give {folder / labels[0]} if the classes are in there" if labels else ""
        raise DatasetError(
            f"{folder} holds {len(labels)} class folders, a classifier needs at least two. Put one folder of "
            f"images for each class there{inner}"
        )
    for label in labels:
        files, folders = listing(folder / label)
        if any(posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in files):
            continue
        found = f"only {files[0]} and the like" if files else f"only the folder {folders[0]}" if folders else "nothing"
        raise DatasetError(
            f"class folder {folder / label} holds no image, {found}. Put images straight into it, or take it away"
        )


def class_records(
    raw: Path,
    side: str,
    split: Split,
    labels: Iterable[str],
    *,
    per_class: int | None = None,
    group: Callable[[str, str], str] | None = None,
) -> Iterator[Record]:
    """Yield the images of `raw/side/<label>/` for each label; folders inside a class folder are passed over.

    `per_class` takes so many images of each class, evenly spread over the sorted names. `group` maps a label and a file
    name to the record's group.
    """
    for label in labels:
        names = listing(raw / side / label).files
        for name in spread(names, per_class):
            path = posixpath.join(side, label, name)
            yield Record(path, split, label, path, group=None if group is None else group(label, name))


def spread(names: Sequence[str], number: int | None) -> Sequence[str]:
    """Return `number` of the names, evenly spread, or all of them where there are no more."""
    if number is None or number >= len(names):
        return names
    return [names[index * len(names) // number] for index in range(number)]


def check_files(raw: Path, paths: Iterable[str], source: str) -> None:
    """Refuse a list that names files which are not there; memory stays flat however long it is.

    A list sorted by folder, as the public ones are, costs one listing of each folder and no look at single files.

    Raises:
        DatasetError: names the list (`source`), the first few missing files, how many there are, and the remedy.
    """
    missing: list[str] = []
    total = 0
    remaining = iter(paths)
    while batch := list(itertools.islice(remaining, _BATCH)):
        folders: dict[str, list[str]] = {}
        for path in batch:
            head, name = posixpath.split(path)
            folders.setdefault(head, []).append(name)
        for head, names in folders.items():
            absent = [posixpath.join(head, name) for name in _absent(raw / head, names)]
            missing += absent[: 3 - len(missing)]
            total += len(absent)
    if total:
        raise DatasetError(
            f"{source} names {total} files that are not in {raw}, first {', '.join(missing)}. "
            "Unpack the images that belong to the list, or take their lines out of it"
        )


def _absent(folder: Path, names: list[str]) -> list[str]:
    if len(names) < _FEW:
        return [name for name in names if not (folder / name).is_file()]
    if not folder.is_dir():
        return names
    present = set(listing(folder).files)
    return [name for name in names if name not in present]
