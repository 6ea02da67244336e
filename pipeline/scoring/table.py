"""The table of answers: a folder of Parquet files, a row an image. pandas and DuckDB read the folder as one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers import atomic

if TYPE_CHECKING:
    import pyarrow as pa

ERRORS, LIST_HASH = b"errors", b"images"  # keys of a part's metadata
COLUMNS = ("image", "label", "probability", "labels", "familiarity", "error", "model", "version", "sha256")
Row = dict[str, Any]


def part_of(folder: Path, number: int) -> Path:
    """Return the file of a part of the table."""
    return folder / f"part-{number:08d}.parquet"


def _schema() -> "pa.Schema":
    import pyarrow as pa

    repeated = pa.dictionary(pa.int32(), pa.string())
    types = dict.fromkeys(("image", "label", "error"), pa.string())
    types |= dict.fromkeys(("probability", "familiarity"), pa.float64())
    types |= {"labels": pa.map_(pa.string(), pa.float64())} | dict.fromkeys(("model", "version", "sha256"), repeated)
    return pa.schema([(name, types[name]) for name in COLUMNS])


def write(path: Path, rows: Sequence[Row], digest: str) -> int:
    """Write a part; return how many of its images have no answer. `digest` is that of the list of its images."""
    import pyarrow as pa
    import pyarrow.parquet

    errors = sum(row["error"] is not None for row in rows)
    schema = _schema().with_metadata({ERRORS: str(errors), LIST_HASH: digest})
    with atomic.replacing(path) as part:
        pyarrow.parquet.write_table(pa.Table.from_pylist(list(rows), schema), part)
    return errors


def errors_of(path: Path, digest: str) -> int | None:
    """Return how many images of a part have no answer, None unless the part is whole and of this list of images."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        about = pyarrow.parquet.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    return int(about[ERRORS]) if about.get(LIST_HASH) == digest.encode() else None
