"""Classes from the names of files, as in `cat.0.jpg`, and not from those of folders."""

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from training.data.readers.folder import files_below, is_image, spread
from training.data.records import DatasetError, RawDataset, Record, Split

Label = Callable[[str], str | None]

_NUMBERED = re.compile(r"(.*[^\W\d_].*?)[\s._()-]*\d+[\s)]*")


def numbered(name: str) -> str | None:
    """Return the part before the number at the end of a file's name, or None: `cat.0.jpg` is a `cat`."""
    match = _NUMBERED.fullmatch(posixpath.splitext(posixpath.basename(name))[0])
    return match[1].strip() if match else None


def rule(value: object) -> Label:
    """Return what gives the label of a file: `numbered` for "names", or the one group of a regular expression.

    Raises:
        DatasetError: `value` is neither.
    """
    if value == "names":
        return numbered
    try:
        pattern = re.compile(value) if isinstance(value, str) else None
    except re.error as error:
        raise DatasetError(f"reader_options.labels is {value!r}, which is not a regular expression: {error}") from error
    if pattern is None or pattern.groups != 1:
        raise DatasetError(
            f"reader_options.labels is {value!r}: set it to folders, to names (as in cat.0.jpg), or to a regular "
            "expression with one group that finds the class in a file's name without its suffix"
        )

    def label(name: str) -> str | None:
        match = pattern.search(posixpath.splitext(posixpath.basename(name))[0])
        return (match[1] or None) if match else None

    return label


def offer(names: Iterable[str]) -> str:
    """Return a sentence on how to read these files by their names, or "" where the names seem to hold no classes."""
    images = [name for name in names if is_image(name)]
    counts = Counter(label for label in map(numbered, images) if label)
    if len(counts) < 2 or sum(counts.values()) < 0.9 * len(images) or len(counts) > len(images) / 2:
        return ""
    some = ", ".join(sorted(counts)[:3]) + (", …" if len(counts) > 3 else "")
    return (
        f". If names such as {images[0]} hold the class ({some}), read them with "
        'ARGS="+dataset.reader_options.labels=names"'
    )


def read(raw: Path, sides: Mapping[str, Split], label: Label, per_class: int | None) -> RawDataset:
    """Read the images of each side by their names; a test image whose name has no class is not read.

    Raises:
        DatasetError: the names of the train side have fewer than two classes.
    """
    counts = Counter(label(name) for name in _images(raw, sides, "train"))
    classes = sorted(name for name in counts if name is not None)
    if len(classes) < 2:
        holds = f"only the class {classes[0]!r}" if classes else "no class"
        raise DatasetError(
            f"the names of the {counts.total()} images in {raw} hold {holds}, a classifier needs at least two. Set "
            "reader_options.labels to a regular expression with one group that finds the class in a file's name"
        )
    return RawDataset(tuple(classes), _records(raw, sides, label, per_class))


def labelled(folder: Path, label: Label) -> bool:
    """Return whether the name of an image in `folder` holds a class."""
    return any(label(name) for name in files_below(folder) if is_image(name))


def _images(raw: Path, sides: Mapping[str, Split], split: Split) -> Iterator[str]:
    for side in (side for side in sides if sides[side] == split):
        yield from (posixpath.join(side, name) for name in files_below(raw / side) if is_image(name))


def _records(raw: Path, sides: Mapping[str, Split], label: Label, per_class: int | None) -> Iterator[Record]:
    by_class: dict[str | None, list[str]] = {}
    for path in _images(raw, sides, "train"):
        by_class.setdefault(label(path), []).append(path)
    for name, paths in sorted(by_class.items(), key=lambda item: item[0] or ""):
        for path in spread(paths, per_class):
            yield Record(path, "train", name, path)
    for path in _images(raw, sides, "test"):
        if (name := label(path)) is not None:
            yield Record(path, "test", name, path)
