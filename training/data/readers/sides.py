"""Which folders of a layout train and which judge, by their names: `train`, `Testing`, `seg_test`, `training_set`."""

import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from training.data.readers.folder import listing
from training.data.records import Split

Kind = Literal["train", "validation", "test"]

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "valset"), "validation"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
# Words beside which a name still says only its side.
_FILLERS = frozenset(("set", "data", "dataset", "image", "images", "img", "imgs", "pictures", "photos", "split", "to"))


class _Side(NamedTuple):
    folder: str
    kind: Kind
    common: tuple[str, ...]  # the words of the name that say nothing about a side

    @property
    def exact(self) -> bool:
        return self.folder.lower() in _KINDS


def find(folders: Iterable[str]) -> dict[str, Kind]:
    """Return the sides among `folders`, the train side first; none where no folder is named as a train side is.

    A word that is common to the sides (`seg_train`, `seg_test`) is no obstacle; a folder that only resembles a side
    (`images to test`) is none where another has the exact name.
    """
    groups: dict[tuple[str, ...], list[_Side]] = {}
    for side in filter(None, map(_side, folders)):
        groups.setdefault(side.common, []).append(side)
    for common in sorted(groups, key=len):
        kinds = {side.kind for side in groups[common]}
        # "train station" is a side only beside "test station".
        if "train" in kinds and (not common or len(kinds) > 1):
            return _without_resembling(groups[common])
    return {}


def names_side(folder: str) -> bool:
    """Return whether a word of a folder's name is that of a side."""
    return any(word in _KINDS for word in _words(folder))


def _words(folder: str) -> list[str]:
    return re.findall("[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", folder).lower())


def _side(folder: str) -> _Side | None:
    """Return the side that a folder's name says, None if it has no word of a side, or several."""
    words = _words(folder)
    kinds = [_KINDS[word] for word in words if word in _KINDS]
    common = tuple(word for word in words if word not in _KINDS and word not in _FILLERS)
    return _Side(folder, kinds[0], common) if len(kinds) == 1 else None


def _without_resembling(candidates: list[_Side]) -> dict[str, Kind]:
    exact = {side.kind for side in candidates if side.exact}
    sides = [side for side in candidates if side.exact or side.kind not in exact]
    return {side.folder: side.kind for side in sorted(sides, key=lambda side: side.kind != "train")}


def splits(sides: dict[str, Kind]) -> dict[str, Split]:
    """Return the split of each side: validation images count as test without a test side, and as train with one."""
    judging = "test" if "test" in sides.values() else "validation"
    return {folder: "test" if kind == judging else "train" for folder, kind in sides.items()}


def innermost(raw: Path, side: str) -> str:
    """Return the folder, relative to `raw`, that holds a side: some archives nest it twice (`seg_train/seg_train`)."""
    files, folders = listing(raw / side)
    nested = [name for name in folders if name.lower() == posixpath.basename(side).lower()]
    return posixpath.join(side, nested[0]) if nested and len(folders) == 1 and not files else side
