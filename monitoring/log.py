"""Write the prediction log of a model as a table, a row for each logged image.

    python -m monitoring.log birds                      predictions.parquet beside the log, or .csv without pyarrow
    python -m monitoring.log birds --out birds.parquet  for pandas and DuckDB; needs pyarrow
    python -m monitoring.log birds --out birds.csv      lists and dictionaries as JSON

docs/monitoring.md describes the columns.
"""

import argparse
import csv
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from handlers import atomic
from handlers.observation import segments
from serving.errors import ServingError
from serving.lifecycle import launch
from serving.store import model_store

TABLE = "predictions"  # in the folder of the model
ROWS = 10_000  # that are in memory at a time
COLUMNS = (
    *("time", "request_id", "trace_id", "image", "model", "version", "label", "confidence", "labels", "familiarity"),
    *("brightness", "contrast", "sharpness", "pixels", "bytes", "sha256", "embedding"),
)
Row = dict[str, Any]


class LogError(ServingError):
    """The log cannot be read or written as a table; the message says what to do."""


def folder_of(root: Path, name: str) -> Path:
    """Return the folder of a model's log, which has rows.

    Raises:
        LogError: it has none.
        ArchiveError: the name cannot be one of a model.
    """
    model_store.check_name(name)
    folder = launch.predictions(root) / name
    if not segments.segments(folder):
        raise LogError(
            f"{folder.relative_to(root)} has no predictions: build a version with "
            f'make archive NAME={name} VERSION=<version> ARGS="handler.log=0.1", and deploy it'
        )
    return folder


def write(folder: Path, path: Path) -> int:
    """Write the log in the folder of a model to a .parquet or .csv file; return the number of rows.

    Raises:
        LogError: another kind of file, or pyarrow is missing.
    """
    rows = (row for row, _ in segments.read(folder))
    writers = {".parquet": _write_parquet, ".csv": _write_csv}
    if path.suffix not in writers:
        raise LogError(f"{path} must end with .parquet or .csv")
    with atomic.replacing(path) as part:
        return writers[path.suffix](rows, part)


def _write_csv(rows: Iterator[Row], path: Path) -> int:
    count = 0
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
        table.writeheader()
        for row in rows:
            count += 1
            table.writerow(row | {name: json.dumps(row[name]) for name in ("labels", "embedding")})
    return count


def _write_parquet(rows: Iterator[Row], path: Path) -> int:
    if not has_pyarrow():
        raise LogError(
            "Parquet needs pyarrow: install it with .venv/bin/uv pip install --require-hashes -r requirements-log.txt, "
            "or name a .csv file"
        )
    import pyarrow as pa
    import pyarrow.parquet

    types = {name: pa.float64() for name in COLUMNS} | dict.fromkeys(("image", "pixels", "bytes"), pa.int64())
    types |= dict.fromkeys(("time", "request_id", "trace_id", "model", "version", "label", "sha256"), pa.string())
    types |= {"labels": pa.map_(pa.string(), pa.float64()), "embedding": pa.list_(pa.float32())}
    schema, count = pa.schema(types), 0
    times = schema.get_field_index("time")
    stored = schema.set(times, pa.field("time", pa.timestamp("ms", "UTC")))
    with pyarrow.parquet.ParquetWriter(path, stored) as file:
        while batch := list(islice(rows, ROWS)):
            entries = [row | {"labels": list(row["labels"].items())} for row in batch]
            file.write_table(pa.Table.from_pylist(entries, schema).cast(stored))
            count += len(batch)
    return count


def has_pyarrow() -> bool:
    """Return whether pyarrow is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one table; return 1 on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.log", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="the model")
    parser.add_argument("--out", type=Path, help="a .parquet or .csv file")
    options = parser.parse_args(arguments)
    try:
        folder = folder_of(Path.cwd(), options.name)
        path = options.out or folder / f"{TABLE}{'.parquet' if has_pyarrow() else '.csv'}"
        count = write(folder, path)
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {count:,} predictions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
