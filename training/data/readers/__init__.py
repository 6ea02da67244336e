"""One reader for each layout of raw images; a reader is a module here with `read(raw, options) -> RawDataset`.

`reader` in a data set's file in training/configs/dataset/ names it. Modules that readers share are in `_SHARED`.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.data.records import DatasetError, RawDataset

# Modules here that the readers share.
_SHARED = ("folder", "options", "sides", "file_names")
READERS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _SHARED))


def check(reader: str) -> None:
    """Refuse a name that no reader has.

    Raises:
        DatasetError: names it and the nearest one that there is.
    """
    if reader not in READERS:
        near = difflib.get_close_matches(str(reader), READERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(READERS)}"
        raise DatasetError(f"dataset.reader is {reader!r}, and training/data/readers has no such reader: {hint}")


def sources(reader: str) -> list[Path]:
    """Return the files that decide what `reader` reads: its own module, and all here that the readers share."""
    other_readers = {name for name in READERS if name != reader}
    files = [path for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".json")]
    return sorted(path for path in files if path.stem not in other_readers)


def read(reader: str, raw: Path, options: Mapping[str, Any] | None = None) -> RawDataset:
    """Read the folder `raw` with the reader of that name; a reader is imported only when it is asked for.

    Raises:
        DatasetError: no such reader, an option that the reader does not have, or a folder that it cannot read.
    """
    check(reader)
    dataset: RawDataset = importlib.import_module(f"training.data.readers.{reader}").read(raw, options or {})
    return dataset
