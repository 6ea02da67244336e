"""Moths: `train/<species>/*.jpg`, with `valid/` and `test/` beside it; names of species contain blanks."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.data.readers import options as option
from training.data.readers.folder import (
    check_class_folders,
    class_name,
    class_names,
    class_records,
    listing,
    two_forms,
    wrong_layout,
)
from training.data.records import RawDataset, Record, Split

_SIDES: dict[str, Split] = {"train": "train", "valid": "train", "test": "test"}


def read(raw: Path, options: Mapping[str, Any]) -> RawDataset:
    """Read species folders; classes are the species of `train/`, sorted, and `valid/` counts as train.

    Options: `species`, a list of names or the number of them to take (the first in order); `images_per_class`, the most
    images of each species from each of `train/` and `valid/`.

    Raises:
        DatasetError: `train/` or `test/` is missing, a species without an image, or an unknown name in `species`.
    """
    option.check(options, "species", "images_per_class")
    present = listing(raw).folders
    if not {"train", "test"} <= set(present):
        raise wrong_layout(raw, "the moths data set", "train/<species>/ and test/<species>/")
    train = listing(raw / "train").folders
    names = class_names(train)
    species = option.choose(options, "species", names, str(raw / "train"))
    check_class_folders(raw / "train", [folder for folder in train if class_name(folder) in species])
    # A species that was not chosen is passed over; one that train does not have is for `prepare` to report.
    passed_over = set(names) - set(species)
    folders = {
        side: [name for name in listing(raw / side).folders if class_name(name) not in passed_over]
        for side in _SIDES
        if side in present
    }
    remarks = tuple(two_forms(itertools.chain(*folders.values())))
    return RawDataset(species, _records(raw, folders, option.count(options, "images_per_class")), remarks=remarks)


def _records(raw: Path, folders: Mapping[str, list[str]], per_class: int | None) -> Iterator[Record]:
    for side, names in folders.items():
        split = _SIDES[side]
        yield from class_records(raw, side, split, names, per_class=per_class if split == "train" else None)
