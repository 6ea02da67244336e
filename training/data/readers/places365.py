"""Places365: `categories_places365.txt`, a train and a val file list, and the images that they name.

Train images are under `data_256_standard/` (`data_256/` in the public archive) as `/a/airport_terminal/00000001.jpg`,
val images flat in `val_256/`; the large ones in `data_large_standard/` and `val_large/` are read as well.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from training.data.readers import options as option
from training.data.readers.folder import check_files, listing, text_lines, wrong_layout
from training.data.records import DatasetError, RawDataset, Record, Split

_CATEGORIES = "categories_places365.txt"
_LISTS: dict[Split, tuple[str, ...]] = {
    "train": ("places365_train_standard.txt", "places365_train_challenge.txt"),
    "test": ("places365_val.txt",),
}
_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": (
        *("data_256_standard", "data_256", "data_256_challenge"),
        *("data_large_standard", "data_large", "data_large_challenge"),
    ),
    "test": ("val_256", "val_large"),
}
_LAYOUT = f"{_CATEGORIES}, {_LISTS['train'][0]}, {_LISTS['test'][0]}, data_256_standard/ and val_256/"


class _Source(NamedTuple):
    """One file list and the folder that its lines are relative to, by their names in the raw folder."""

    split: Split
    names: str
    folder: str


def read(raw: Path, options: Mapping[str, Any]) -> RawDataset:
    """Read the file lists; `/c/church/outdoor` is the class `church/outdoor`: its path without the leading letter.

    Classes are in the order of their indices. The public val images are the test side, for the public test images
    have no labels. The lists are gone through line by line, so memory does not grow with them.

    Options: `classes`: "present" (the default: every class with a train image), "all" (365 outputs, whichever are
    present), a list of names, or the number of present ones to take; `images_per_class`, the most train images of each
    class, the first in the list. Only files of the chosen classes have to exist.

    Raises:
        DatasetError: a list or folder is missing, a line is not complete, or a list names missing files.
    """
    option.check(options, "classes", "images_per_class")
    sources = [_source(raw, split) for split in _LISTS]
    categories = _categories(raw / _CATEGORIES)
    mode = options.get("classes") or "present"
    classes = _classes(raw / sources[0].names, categories, mode, options)
    # With a choice, other classes are skipped; without one, a val image of a class without train images is kept, for
    # `prepare` to report.
    used = set(categories.values()) if mode in ("all", "present") else set(classes)
    per_class = option.count(options, "images_per_class")
    for source in sources:
        paths = (record.path for record in _records(raw, source, categories, used, per_class))
        check_files(raw, paths, str(raw / source.names))
    return RawDataset(
        classes,
        _all_records(raw, sources, categories, used, per_class),
        fixed=mode == "all",
        lists=(_CATEGORIES, *(source.names for source in sources)),
    )


def _classes(path: Path, categories: Mapping[int, str], mode: object, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names in output order; `path` is the train list, which says which classes are present."""
    present = {index for _, index in _lines(path, categories)}
    names = tuple(name for index, name in categories.items() if index in present)
    if mode == "all":
        classes = tuple(categories.values())
    elif mode == "present":
        classes = names
    elif isinstance(mode, Sequence) and not isinstance(mode, str):
        classes = option.choose(options, "classes", tuple(categories.values()), _CATEGORIES)
    else:
        classes = option.choose(options, "classes", names, path.name)
    if len(classes) < 2:
        raise DatasetError(f"{path} has {len(classes)} classes. Add lines of at least two")
    return classes


def _source(raw: Path, split: Split) -> _Source:
    files, folders = listing(raw)
    names = next((name for name in _LISTS[split] if name in files), None)
    folder = next((name for name in _FOLDERS[split] if name in folders), None)
    if (names is None and folder is None) or not files or not folders:
        raise wrong_layout(raw, "Places365", _LAYOUT)
    if names is None or folder is None:
        missing = _LISTS[split][0] if names is None else f"{_FOLDERS[split][0]}/"
        raise DatasetError(f"{raw / missing} is missing. Give a folder that holds {_LAYOUT}")
    return _Source(split, names, folder)


def _categories(path: Path) -> dict[int, str]:
    """Return class names by index, in the order of the indices."""
    if not path.is_file():
        raise DatasetError(f"{path} is missing. Give a folder that holds {_LAYOUT}")
    categories: dict[int, str] = {}
    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            continue
        name, _, index = line.strip().rpartition(" ")
        # "/c/church/outdoor": a letter for the folder, then the name.
        parts = name.strip().split("/", 2)
        if (
            not (index.isdecimal() and len(parts) == 3 and parts[2])
            or int(index) in categories
            or parts[2] in categories.values()
        ):
            raise DatasetError(f"{path}: line {number} is {line!r}. Each line is /letter/name and a unique index")
        categories[int(index)] = parts[2]
    return dict(sorted(categories.items()))


def _lines(path: Path, categories: Mapping[int, str]) -> Iterator[tuple[str, int]]:
    """Yield (file name without a leading slash, class index) for each line of a list, and refuse a wrong line."""
    for number, line in enumerate(text_lines(path), start=1):
        if line.strip():
            yield _name_and_index(path, number, line.strip(), categories)


def _name_and_index(path: Path, number: int, line: str, categories: Mapping[int, str]) -> tuple[str, int]:
    name, _, text = line.rpartition(" ")
    index = int(text) if text.isdecimal() else -1
    name = name.strip().lstrip("/")
    if not name or index < 0:
        raise DatasetError(f"{path}: line {number} is {line!r}, truncated or of another layout. {_MEND}")
    if index not in categories:
        raise DatasetError(f"{path}: line {number} has index {index}, which {_CATEGORIES} does not have. {_MEND}")
    if ".." in name.split("/"):
        raise DatasetError(f"{path}: line {number} points outside the image folder. {_MEND}")
    return name, index


_MEND = "Each line is a file name and the index of its class: get the list again"


def _records(
    raw: Path, source: _Source, categories: Mapping[int, str], used: set[str], per_class: int | None
) -> Iterator[Record]:
    counts = dict.fromkeys(categories, 0)
    for name, index in _lines(raw / source.names, categories):
        label = categories[index]
        if label not in used:
            continue
        counts[index] += 1
        if source.split == "train" and per_class is not None and counts[index] > per_class:
            continue
        path = f"{source.folder}/{name}"
        yield Record(path, source.split, label, path)


def _all_records(
    raw: Path, sources: list[_Source], categories: Mapping[int, str], used: set[str], per_class: int | None
) -> Iterator[Record]:
    for source in sources:
        yield from _records(raw, source, categories, used, per_class)
