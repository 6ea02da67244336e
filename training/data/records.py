"""One labelled image of a raw data set, and how to get at its encoded bytes."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

Split = Literal["train", "test"]
DRAWN = "generated.json"  # in a folder of drawn images: how `synthetic` drew them


class DatasetError(Exception):
    """A raw data set cannot be read; the message names the file and the remedy."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """Location and label of one encoded image.

    `id` is unique within its data set. `split` is the side of the data set's own layout: validation images of a layout
    count as "train", since the project always splits off its own validation. `label` is a class name, or None if the
    layout gives none; a reader passes an unknown label on unchanged, and `prepare` reports that record by its path and
    leaves it out. `path` is relative to the raw folder; `offset` and `length` are in bytes (`length` None: the whole
    file). Records of one `group` are never on two sides of a split by group.
    """

    id: str
    split: Split
    label: str | None
    path: str
    offset: int = 0
    length: int | None = None
    group: str | None = None

    def read(self, raw: Path) -> bytes:
        """Return the encoded image."""
        with open(raw / self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(-1 if self.length is None else self.length)


@dataclasses.dataclass(frozen=True, slots=True)
class RawDataset:
    """Result of a reader: the class names in output order, and its records, read lazily.

    `classes` are all outputs that the network gets. A class without a usable image is an error, unless `fixed` says
    that the data set's own numbering gives the outputs, whichever of them are present. Errors of single records raise
    `DatasetError` while `records` is iterated, before anything is written in its final place. `lists` are the files,
    by their paths in the raw folder, that say what the records are; `remarks` are lines for the person who prepares it.
    """

    classes: tuple[str, ...]
    records: Iterable[Record]
    fixed: bool = False
    lists: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
