"""Moths: `train/<species>/*.jpg`, with `valid/` and `test/` beside it; names of species contain blanks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.readers import options as option
from training.readers.folder import check_class_folders, class_records, listing, wrong_layout
from training.records import RawDataset, Record, Split

_SIDES: dict[str, Split] = {"train": "train", "valid": "train", "test": "test"}


def read(raw: Path, options: Mapping[str, Any]) -> RawDataset:
    """Read species folders; classes are the species of `train/`, sorted, and `valid/` counts as train.

    Options: `species`, a list of names or the number of them to take (the first in order); `images_per_class`, the most
    images of each species from each of `train/` and `valid/`.

    Raises:
        DatasetError: `train/` or `test/` is missing, a species without an image, or an unknown name in `species`.
    """
    option.check(options, "species", "images_per_class")
    folders = listing(raw).folders
    if not {"train", "test"} <= set(folders):
        raise wrong_layout(raw, "the moths data set", "train/<species>/ and test/<species>/")
    names = listing(raw / "train").folders
    species = option.choose(options, "species", names, str(raw / "train"))
    check_class_folders(raw / "train", species)
    sides = {side: split for side, split in _SIDES.items() if side in folders}
    return RawDataset(species, _records(raw, sides, species, names, option.count(options, "images_per_class")))


def _records(
    raw: Path, sides: dict[str, Split], species: tuple[str, ...], names: list[str], per_class: int | None
) -> Iterator[Record]:
    # A species that was not chosen is passed over; one that train does not have is for `prepare` to report.
    passed_over = set(names) - set(species)
    for side, split in sides.items():
        labels = [name for name in listing(raw / side).folders if name not in passed_over]
        yield from class_records(raw, side, split, labels, per_class=per_class if split == "train" else None)
