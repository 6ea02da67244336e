"""Fingers: `train/*.png` and `test/*.png`; a name's last two characters say how many fingers, and of which hand."""

import itertools
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.data.readers import options as option
from training.data.readers.folder import listing, spread, wrong_layout
from training.data.records import DatasetError, RawDataset, Record, Split

CLASSES = tuple(f"{count}{hand}" for count in range(6) for hand in "LR")

_SIDES: tuple[Split, ...] = ("train", "test")


def read(raw: Path, options: Mapping[str, Any]) -> RawDataset:
    """Read the 12 classes 0L, 0R … 5L, 5R; `fingers/` around the two folders is read as well.

    A name that does not end in one of the 12 gives a label that is not among the classes, which `prepare` reports.

    Options: `images_per_class`, the most train images of each class, evenly spread over the sorted names.

    Raises:
        DatasetError: `train/` or `test/` is missing or holds no PNG file.
    """
    option.check(options, "images_per_class")
    top = "" if "fingers" not in listing(raw).folders else "fingers"
    if not set(_SIDES) <= set(listing(raw / top).folders):
        raise wrong_layout(raw, "the fingers data set", "train/*_3L.png and test/*_3L.png")
    for side in _SIDES:
        if not any(name.lower().endswith(".png") for name in listing(raw / top / side).files):
            raise DatasetError(
                f"folder {raw / top / side} holds no PNG file. Put the images there, named as in …_3L.png, or give the "
                "right folder with RAW=<folder>"
            )
    return RawDataset(CLASSES, _records(raw, top, option.count(options, "images_per_class")), fixed=True)


def _label(name: str) -> str:
    return posixpath.splitext(name)[0][-2:]


def _records(raw: Path, top: str, per_class: int | None) -> Iterator[Record]:
    for side in _SIDES:
        names = sorted(listing(raw / top / side).files, key=lambda name: (_label(name), name))
        for label, group in itertools.groupby(names, key=_label):
            for name in spread(list(group), per_class if side == "train" else None):
                path = posixpath.join(top, side, name)
                yield Record(path, side, label, path)
