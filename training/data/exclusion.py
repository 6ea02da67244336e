"""The images that a person leaves out: rows of a CSV with a column `path`, such as `training.inspection` writes.

`path` is an image's id: its path in the raw folder, or its name in a TFRecord file. Other columns say nothing here.
"""

import csv
import io
from pathlib import Path

from training.data.records import DatasetError

COLUMN = "path"
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # cells that begin so have a quote in front, see `index.spreadsheet_cell`


def read(path: Path) -> frozenset[str]:
    """Return the ids in a CSV; its cells may be separated by commas, semicolons or tabs, as spreadsheets save them.

    Raises:
        DatasetError: the file cannot be read, or has no such column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"exclude={path}: {error.strerror}; give a CSV file with a column {COLUMN!r}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"exclude={path}: not UTF-8; save it as CSV in UTF-8") from error
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    if COLUMN not in (rows.fieldnames or ()):
        raise DatasetError(f"exclude={path}: no column {COLUMN!r} in its first line; give a CSV file that has one")
    try:
        return frozenset(_id(row[COLUMN]) for row in rows if row[COLUMN])
    except csv.Error as error:
        raise DatasetError(f"exclude={path}: line {rows.line_num} is not CSV ({error})") from error


def _id(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell
