"""One reader for each layout of raw images; a reader is a module with `read(raw, options) -> RawDataset`."""

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.records import DatasetError, RawDataset

READERS = ("asl_alphabet", "class_folders", "fingers", "moths", "petals", "places365")


def read(reader: str, raw: Path, options: Mapping[str, Any] | None = None) -> RawDataset:
    """Read the folder `raw` with the reader of that name; a reader is imported only when it is asked for.

    Raises:
        DatasetError: no such reader, an option that the reader does not have, or a folder that it cannot read.
    """
    if reader not in READERS:
        near = difflib.get_close_matches(reader, READERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(READERS)}"
        raise DatasetError(f"there is no reader {reader!r}: {hint}")
    dataset: RawDataset = importlib.import_module(f"training.readers.{reader}").read(raw, options or {})
    return dataset
