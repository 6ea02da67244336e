"""ASL alphabet: `asl_alphabet_train/<class>/<class><frame>.jpg` and `asl_alphabet_test/<class>_test.jpg`.

The public archive nests both folders twice (`asl_alphabet_train/asl_alphabet_train/…`); either depth is read.
"""

import functools
import posixpath
import re
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.data.readers import options as option
from training.data.readers.folder import check_class_folders, class_records, listing, wrong_layout
from training.data.records import RawDataset, Record

CLASSES = (*string.ascii_uppercase, "del", "nothing", "space")
# The public set has 3,000 frames a class: twenty blocks of neighbouring frames.
FRAMES_PER_BLOCK = 150

_TRAIN = "asl_alphabet_train"
_TEST = "asl_alphabet_test"


def read(raw: Path, options: Mapping[str, Any]) -> RawDataset:
    """Read the 29 signs; all 29 stay outputs where a folder has only some of them.

    Frames of one class are a film, so neighbours are nearly equal: a record's group is its class and its block of frame
    numbers, and a split by group holds out whole blocks. The test files are one a class; `del` may be absent, and so
    may the whole test folder. A folder that is not one of the 29 is left to `prepare` to report.

    Options: `frames_per_block` (default 150); `images_per_class`, the most train images of each class.

    Raises:
        DatasetError: the train folder is missing, fewer than two classes, or a class folder without an image.
    """
    option.check(options, "frames_per_block", "images_per_class")
    if _TRAIN not in listing(raw).folders:
        raise wrong_layout(raw, "the ASL alphabet", f"{_TRAIN}/<class>/")
    train = _innermost(raw, _TRAIN)
    labels = listing(raw / train).folders
    check_class_folders(raw / train, labels)
    block = option.count(options, "frames_per_block", FRAMES_PER_BLOCK) or FRAMES_PER_BLOCK
    return RawDataset(
        CLASSES, _records(raw, train, labels, block, option.count(options, "images_per_class")), fixed=True
    )


def _innermost(raw: Path, folder: str) -> str:
    return posixpath.join(folder, folder) if folder in listing(raw / folder).folders else folder


def _records(raw: Path, train: str, labels: list[str], block: int, per_class: int | None) -> Iterator[Record]:
    group = functools.partial(_group, block)
    yield from class_records(raw, train, "train", labels, per_class=per_class, group=group)
    if _TEST not in listing(raw).folders:
        return
    test = _innermost(raw, _TEST)
    for name in listing(raw / test).files:
        path = posixpath.join(test, name)
        # A name without "_test" gives a label that is not among the classes, which `prepare` reports.
        label = posixpath.splitext(name)[0].removesuffix("_test")
        yield Record(path, "test", label, path, group=f"{label}/test")


def _group(block: int, label: str, name: str) -> str:
    """Return the class and the block of frames that a train file is in; frames are numbered from 1."""
    frame = re.search(r"(\d+)\.[^.]*$", name)
    return f"{label}/{(int(frame[1]) - 1) // block}" if frame else f"{label}/{name}"
