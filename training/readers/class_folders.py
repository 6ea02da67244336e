"""Any data set of class folders: `<class>/*`, or `train/<class>/*` with `test/<class>/*` beside it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.readers import options as option
from training.readers.folder import check_class_folders, class_records, listing, wrong_layout
from training.records import RawDataset, Record, Split

_TRAIN = ("train", "training")
_TEST = ("test", "testing")
_VALIDATION = ("val", "valid", "validation", "dev")


def read(raw: Path, options: Mapping[str, Any]) -> RawDataset:
    """Read class folders; classes are the folder names of the train side, sorted.

    `train/` beside `test/`, `val/` and the like (and beside no other folder) is taken as a layout with sides: images of
    `val/` count as train where there is a `test/`, and as test where there is none. Otherwise every folder is a class,
    and every image "train". A class that only the test side has is left to `prepare` to report.

    Options: `classes`, a list of folder names or the number of them to take; `images_per_class`, the most train images
    of each.

    Raises:
        DatasetError: the folder is missing or empty, holds fewer than two classes, or a class without an image.
    """
    option.check(options, "classes", "images_per_class")
    found = listing(raw)
    if not found.folders:
        raise wrong_layout(raw, "class folders", "a folder of images for each class")
    sides = _sides(raw, found.folders) or {"": "train"}
    main = next(iter(sides))
    names = listing(raw / main).folders
    classes = option.choose(options, "classes", names, str(raw / main))
    check_class_folders(raw / main, classes)
    all_chosen = len(classes) == len(names)
    return RawDataset(classes, _records(raw, sides, classes, all_chosen, option.count(options, "images_per_class")))


def _sides(raw: Path, folders: list[str]) -> dict[str, Split] | None:
    """Return the split of each side, train first, or None where the folders are the classes themselves."""
    by_name = {name.lower(): name for name in folders}
    train = next((by_name[name] for name in _TRAIN if name in by_name), None)
    if train is None or not set(by_name) <= {*_TRAIN, *_TEST, *_VALIDATION} or not listing(raw / train).folders:
        return None
    has_test = any(name in _TEST for name in by_name)
    sides: dict[str, Split] = {train: "train"}
    for lower, name in by_name.items():
        if name != train:
            sides[name] = "test" if lower in _TEST or (lower in _VALIDATION and not has_test) else "train"
    return sides


def _records(
    raw: Path, sides: dict[str, Split], classes: tuple[str, ...], all_chosen: bool, per_class: int | None
) -> Iterator[Record]:
    for side, split in sides.items():
        labels = [name for name in listing(raw / side).folders if all_chosen or name in classes]
        yield from class_records(raw, side, split, labels, per_class=per_class if split == "train" else None)
