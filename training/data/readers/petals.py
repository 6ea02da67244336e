"""Petals to the Metal: TFRecord files `tfrecords-jpeg-224x224/{train,val,test}/*.tfrec` with `image`, `class` and `id`.

Records point into the TFRecord files: `offset` and `length` are those of the JPEG itself, so nothing is unpacked.
"""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from training.data import tfrecord
from training.data.readers import options as option
from training.data.readers.folder import listing, text_lines, wrong_layout
from training.data.records import DatasetError, RawDataset, Record, Split

T = TypeVar("T")
_SIDES: dict[str, Split] = {"train": "train", "val": "train", "test": "test"}
_SUFFIXES = (".tfrec", ".tfrecord", ".tfrecords")
_LAYOUT = "tfrecords-jpeg-224x224/{train,val,test}/*.tfrec"
_SIZE = 224


def read(raw: Path, options: Mapping[str, Any]) -> RawDataset:
    """Read the flowers; all 104 names stay outputs, whichever of them are present.

    Names come from `classes.txt` (a number, a tab, a name on each line; blanks at the end of a name are part of it), or
    from the list built in here. `val/` counts as train. Test records have no class; `test_labels.csv` (with columns id
    and class) gives their labels, if it exists. A class number without a name is left to `prepare` to report. Checksums
    are verified as records are read, and a file named in Kaggle's way must hold as many as its name says.

    Options: `size` (default 224), the side in pixels, where the folder has several; `test_labels` (default true),
    whether to read `test_labels.csv`; `images_per_class`, the most train images of each class, the first in order.

    Raises:
        DatasetError: no TFRecord files, another layout of records, or a truncated or damaged one (found while
            records are read).
    """
    option.check(options, "size", "test_labels", "images_per_class")
    names = _names(raw)
    folder = _folder(raw, option.count(options, "size"))
    files = _files(raw, folder)
    for path, _ in files:
        _peek(raw / path)
    labels = _test_labels(raw) if options.get("test_labels", True) else {}
    lists = tuple(
        name for name, used in (("classes.txt", True), ("test_labels.csv", labels)) if used and (raw / name).is_file()
    )
    return RawDataset(
        names, _records(raw, files, names, labels, option.count(options, "images_per_class")), fixed=True, lists=lists
    )


def _folder(raw: Path, size: int | None) -> str:
    """Return the folder of the sides, relative to `raw`: the one named after the size, or the only one."""
    files, folders = listing(raw)
    if {"train", "test"} <= set(folders):
        return ""
    sizes = [name for name in folders if name.startswith("tfrecords-jpeg-")]
    folder = f"tfrecords-jpeg-{size or _SIZE}x{size or _SIZE}"
    if folder in sizes:
        return folder
    if len(sizes) == 1 and size is None:
        return sizes[0]
    if sizes:
        raise DatasetError(f"{raw} has no {folder}/: set reader_options.size to the side of one of {', '.join(sizes)}")
    for name in files:
        if name.endswith(_SUFFIXES):
            _peek(raw / name)
            raise DatasetError(f"{raw / name} is beside train/ and test/, not in one of them. Move it to {_LAYOUT}")
    raise wrong_layout(raw, "Petals to the Metal", _LAYOUT)


def _files(raw: Path, folder: str) -> list[tuple[str, Split]]:
    """Return the path of each TFRecord file, relative to `raw`, and its split."""
    files: list[tuple[str, Split]] = []
    for side, split in _SIDES.items():
        names = _tfrecords(raw / folder / side)
        if not names and side != "val":
            raise DatasetError(f"{raw / folder / side} holds no TFRecord file. Give a folder that holds {_LAYOUT}")
        files += [((Path(folder) / side / name).as_posix(), split) for name in names]
    return files


def _tfrecords(folder: Path) -> list[str]:
    return [name for name in listing(folder).files if name.endswith(_SUFFIXES)] if folder.is_dir() else []


def _names(raw: Path) -> tuple[str, ...]:
    path = raw / "classes.txt"
    if not path.is_file():
        names = json.loads(Path(__file__).with_name("petals_classes.json").read_text(encoding="utf-8"))
        return tuple(names)
    named: dict[int, str] = {}
    for number, line in enumerate(text_lines(path), start=1):
        index, tab, name = line.partition("\t")
        if tab and name and index.isdecimal() and int(index) == len(named) and name not in named.values():
            named[int(index)] = name
        elif line.strip():
            raise DatasetError(
                f"{path}: line {number} is {line!r}. Write one class on each line, in order from 0: number, tab, a "
                "name that no other has"
            )
    if len(named) < 2:
        raise DatasetError(f"{path} names {len(named)} classes. Write at least two, or remove the file")
    return tuple(named.values())


def _test_labels(raw: Path) -> dict[str, int]:
    path = raw / "test_labels.csv"
    if not path.is_file():
        return {}
    labels: dict[str, int] = {}
    for row in csv.DictReader(line for line in text_lines(path) if line.strip()):
        number = row.get("class") or ""
        if not row.get("id") or not number.isdecimal():
            raise DatasetError(f"{path}: row {len(labels) + 1} is not complete. Each needs an id and a class number")
        labels[row["id"]] = int(number)
    return labels


def _peek(path: Path) -> None:
    """Refuse a file whose first record is not one of ours, before anything is read from the others."""
    first = next(tfrecord.read(path), None)
    if first is None:
        raise DatasetError(f"{path} is empty. Copy or download this file again")
    _parse(path, 1, first[1])


def _parse(path: Path, number: int, payload: bytes) -> tuple[bytes, str, int | None]:
    """Return the image, its id, and its class number, None where the record has no class."""
    try:
        features = tfrecord.features(payload)
    except ValueError as error:
        raise DatasetError(f"{path}: record {number} is {error}. Give TFRecord files with {_LAYOUT}") from error
    image, name = _single(features.get("image"), bytes), _single(features.get("id"), bytes)
    if image and name is not None:
        text = _text(path, number, name)
        label = _single(features.get("class"), int)
        if label is not None or not features.get("class"):
            return image, text, label
    keys = ", ".join(sorted(features)) or "none"
    raise DatasetError(
        f"{path}: record {number} is of another layout: its keys are {keys}; image, id and class are needed, one value "
        "each. Give the TFRecord files of Petals to the Metal, or unpack these into class folders and read them as such"
    )


def _single(values: Sequence[object] | None, kind: type[T]) -> T | None:
    """Return the value of a feature that has one, of this type."""
    value = values[0] if values and len(values) == 1 else None
    return value if isinstance(value, kind) else None


def _text(path: Path, number: int, name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}: record {number} has the id {name!r}, which is not UTF-8. Copy or download this file again"
        ) from error


def _records(
    raw: Path, files: list[tuple[str, Split]], names: tuple[str, ...], labels: dict[str, int], per_class: int | None
) -> Iterator[Record]:
    limit = math.inf if per_class is None else per_class
    counts: Counter[str | None] = Counter()
    for record, index in _unique(raw, files):
        label = _class_name(names, labels.pop(record.id, None) if index is None else index)
        if record.split == "train":
            counts[label] += 1
            if counts[label] > limit:
                continue
        yield replace(record, label=label)
    _check_all_used(raw, labels)


def _class_name(names: tuple[str, ...], number: int | None) -> str | None:
    """Return the name of a class; a number without a name is returned as text, for `prepare` to report."""
    if number is None:
        return None
    return names[number] if 0 <= number < len(names) else str(number)


def _unique(raw: Path, files: list[tuple[str, Split]]) -> Iterator[tuple[Record, int | None]]:
    """Yield each record, still without a label, and its class number; ids are unique, train records have a class."""
    places: dict[str, str] = {}
    for path, split in files:
        number = 0
        for number, (start, payload) in enumerate(tfrecord.read(raw / path), start=1):
            image, name, index = _parse(raw / path, number, payload)
            where = f"{path}: record {number}"
            if name in places:
                raise DatasetError(f"{raw / where} has the id {name}, as {places[name]} has. Remove one of them")
            places[name] = where
            if split == "train" and index is None:
                raise DatasetError(f"{raw / where} has no class, so it cannot be trained on. Move its file to test/")
            # The payload contains the bytes of the image unchanged; if it has them twice, either offset is right.
            yield Record(name, split, None, path, start + payload.index(image), len(image)), index
        _check_count(raw / path, number)


def _check_all_used(raw: Path, labels: Mapping[str, int]) -> None:
    """Refuse labels that are left over when every record has been read."""
    if labels:
        first = ", ".join(list(labels)[:3])
        raise DatasetError(
            f"{raw / 'test_labels.csv'} names {len(labels)} ids that no test record has, first {first}. Add the "
            "matching test files, remove the lines, or set reader_options.test_labels=false"
        )


def _check_count(path: Path, count: int) -> None:
    """Refuse a file that was cut between two records, which no checksum shows: Kaggle's names end in the count."""
    promised = re.fullmatch(r"\d+-\d+x\d+-(\d+)\.tfrec", path.name)
    if promised and int(promised[1]) != count:
        raise DatasetError(
            f"{path} is truncated: its name promises {int(promised[1])} records, it holds {count}. Copy or download "
            "this file again, or rename it if that is right"
        )
