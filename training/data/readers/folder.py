"""Folders of image files and the lists beside them: reading them, refusing what cannot be one, making records.

Hidden files and folders, and those that systems leave behind, are passed over. Any other file in a class folder, or in
a folder below it, becomes a record, whatever its suffix, so that `prepare` reports by name what turns out not to be an
image. Names of classes are compared, and served, in the composed Unicode form (NFC): a Mac writes the other one.
"""

import errno
import itertools
import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from training.data.records import DatasetError, Record, Split

# Suffixes that mark a file as an image, to find folders without images and the files to read; "" is for files without a
# suffix. Images of kinds that are not decoded are among them: `prepare` names each with the reason.
IMAGE_SUFFIXES = frozenset(
    [
        *("", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".tif"),
        *(".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".heic", ".heif", ".jxl"),
    ]
)
_CLUTTER = frozenset(
    [*("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"), *("system volume information", "lost+found")]
)
# A folder of which a list names fewer files than this is asked for each file rather than listed in full.
_FEW = 64
_BATCH = 20_000


class Listing(NamedTuple):
    """The names in one folder, sorted, without hidden ones."""

    files: list[str]
    folders: list[str]


def is_clutter(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or left behind by a system."""
    return name.startswith(".") or name.lower() in _CLUTTER


def listing(folder: Path) -> Listing:
    """Return the files and folders in `folder`; only this one folder is kept in memory.

    Raises:
        DatasetError: the folder is missing or cannot be read, a link leads nowhere, or a name is not UTF-8.
    """
    files, folders = [], []
    for entry in _entries(folder):
        if is_clutter(entry.name):
            continue
        if not entry.name.isascii():
            _check_name(folder, entry.name)
        if _is_folder(entry):
            folders.append(entry.name)
        elif entry.is_file():
            files.append(entry.name)
        elif entry.is_symlink():
            raise DatasetError(f"{folder / entry.name} is a broken link. Fix or delete it")
    return Listing(sorted(files), sorted(folders))


def walk(top: Path, *, clutter: bool = True) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield each folder from `top` down, as its path relative to `top`, with its entries other than folders.

    Links are followed. A folder comes before those in it, and all of those before the next one; `clutter` False leaves
    out what `is_clutter` names.

    Raises:
        DatasetError: a folder cannot be read, or a link leads to a folder that it is in.
    """
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        entries = [entry for entry in _entries(top / folder) if clutter or not is_clutter(entry.name)]
        files, folders = _files_and_folders(top, folder, entries)
        yield folder, sorted(files, key=lambda entry: entry.name)
        waiting += sorted(folders, reverse=True)


def _files_and_folders(
    top: Path, folder: str, entries: Iterable[os.DirEntry[str]]
) -> tuple[list[os.DirEntry[str]], list[str]]:
    """Return the files among the entries of `folder`, and the folders as paths relative to `top`."""
    files, folders = [], []
    for entry in entries:
        if not _is_folder(entry):
            files.append(entry)
            continue
        if entry.is_symlink():
            _refuse_loop(top, folder, entry)
        folders.append(posixpath.join(folder, entry.name))
    return files, folders


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DatasetError(
            f"folder {folder} cannot be read: {error.strerror}. Give an existing folder with RAW=<folder>"
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        fault = "is a link to itself" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        raise DatasetError(f"{entry.path} {fault}. Fix or delete it") from error


def _refuse_loop(top: Path, folder: str, link: os.DirEntry[str]) -> None:
    """Refuse a link that leads to one of the folders on the way to it, or to one that holds `top`."""
    target = Path(link.path).resolve()
    way = [top, *(top / parent for parent in itertools.accumulate(folder.split("/"), posixpath.join))]
    if any(parent.resolve().is_relative_to(target) for parent in way):
        raise DatasetError(f"{link.path} is a link to {target}, a folder that contains it. Delete the link")


def _check_name(folder: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f"{folder}: the name {name!r} is not UTF-8. Rename it") from error


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file in UTF-8, with or without a byte-order mark, without their ends.

    Only one line is held at a time.

    Raises:
        DatasetError: the file cannot be read, or is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            for line in file:
                yield line.removesuffix("\n")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text. Save it as UTF-8, or get it again") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}. Get it again, or fix its permissions") from error


def wrong_layout(raw: Path, dataset: str, expected: str, hint: str = "") -> DatasetError:
    """Return the error for a folder that is not laid out as `expected`; it names the present entries instead."""
    entries = listing(raw)
    names = [*entries.files, *(f"{name}/" for name in entries.folders)]
    if not names:
        return DatasetError(f"folder {raw} is empty. Put {expected} there, or give the right folder with RAW=<folder>")
    suffix = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return DatasetError(
        f"{raw} is not laid out as {dataset}: it holds {', '.join(names[:3])}{suffix}. "
        f"Give a folder that holds {expected} with RAW=<folder>, or choose the DATASET that fits this one{hint}"
    )


def class_name(folder: str) -> str:
    """Return the class that a folder of this name holds."""
    return unicodedata.normalize("NFC", folder)


def class_names(folders: Iterable[str]) -> list[str]:
    """Return the classes of these folders, sorted; folders that differ in the Unicode form of their names are one."""
    return sorted({class_name(folder) for folder in folders})


def two_forms(folders: Iterable[str]) -> Iterator[str]:
    """Yield a remark on each class whose name these folders write in two Unicode forms."""
    forms: dict[str, set[str]] = {}
    for folder in folders:
        forms.setdefault(class_name(folder), set()).add(folder)
    for name, spellings in forms.items():
        if len(spellings) > 1:
            written = ", ".join(sorted(map(ascii, spellings)))
            yield f"class {name!r} has its name in two Unicode forms, {written}: read as one"


def check_class_folders(folder: Path, folders: Sequence[str]) -> None:
    """Refuse a folder with fewer than two classes, or a class folder without an image.

    Raises:
        DatasetError: names the folder and what to do.
    """
    if len(class_names(folders)) < 2:
        inner = f", or give {folder / folders[0]} if the classes are in there" if folders else ""
        raise DatasetError(
            f"{folder} holds {len(folders)} class folders, a classifier needs at least two. Put one folder of "
            f"images for each class there{inner}"
        )
    for name in folders:
        if not holds_images(folder / name):
            raise DatasetError(
                f"class folder {folder / name} holds no image, {contents(folder / name)}. "
                "Put images into it, or remove it"
            )


def holds_images(folder: Path) -> bool:
    """Return whether a file with the suffix of an image is in `folder`, or in a folder below it."""
    return any(is_image(entry.name) for _, entries in walk(folder, clutter=False) for entry in entries)


def contents(folder: Path) -> str:
    """Describe the contents of `folder` in a few words."""
    files, folders = listing(folder)
    return f"only {files[0]} and the like" if files else f"only the folder {folders[0]}" if folders else "nothing"


def is_image(name: str) -> bool:
    """Return whether a file's name has the suffix of an image, or none."""
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def files_below(folder: Path) -> list[str]:
    """Return the path, relative to `folder`, of each file in it and in the folders below it, sorted.

    Raises:
        DatasetError: a folder cannot be read, a link leads nowhere or round in a circle, or a name is not UTF-8.
    """
    paths = []
    for below, entries in walk(folder, clutter=False):
        for entry in entries:
            if not entry.name.isascii():
                _check_name(folder / below, entry.name)
            if entry.is_file():
                paths.append(posixpath.join(below, entry.name))
            elif entry.is_symlink():
                raise DatasetError(f"{entry.path} is a broken link. Fix or delete it")
    return sorted(paths)


def class_records(
    raw: Path,
    side: str,
    split: Split,
    folders: Iterable[str],
    *,
    per_class: int | None = None,
    group: Callable[[str, str], str] | None = None,
) -> Iterator[Record]:
    """Yield the images of `raw/side/<folder>/`, and of the folders below it, for each class folder.

    `per_class` is the number of images to take of each folder, evenly spread over the sorted paths. `group` maps a
    class and a path in its folder to the record's group.
    """
    for folder in folders:
        label = class_name(folder)
        for name in spread(files_below(raw / side / folder), per_class):
            path = posixpath.join(side, folder, name)
            yield Record(path, split, label, path, group=None if group is None else group(label, name))


def spread(names: Sequence[str], number: int | None) -> Sequence[str]:
    """Return `number` of the names, evenly spread, or all of them if there are fewer."""
    if number is None or number >= len(names):
        return names
    return [names[index * len(names) // number] for index in range(number)]


def check_files(raw: Path, paths: Iterable[str], source: str) -> None:
    """Refuse a list that names missing files; memory stays flat however long it is.

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
            "Unpack the images that belong to the list, or remove their lines from it"
        )


def _absent(folder: Path, names: list[str]) -> list[str]:
    if len(names) < _FEW:
        return [name for name in names if not (folder / name).is_file()]
    if not folder.is_dir():
        return names
    present = set(listing(folder).files)
    return [name for name in names if name not in present]
