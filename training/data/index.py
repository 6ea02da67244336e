"""The records of one data set on disk: SQLite, so that a million of them need no more memory than a thousand.

`number` counts the records as the reader gave them; `row` is a record's place in the store's arrays, NULL where the
record was left out, which `reason` then explains. While a store is being made, the index is also its state: a record
that has a `sha256` has been decoded.
"""

import csv
import hashlib
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from training.data.records import DatasetError, RawDataset, Record

EXCLUDED = "excluded"  # by a person, in a file
_INSERT_AT_ONCE = 1000

_SCHEMA = """
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE records (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL, split TEXT NOT NULL, label TEXT, class INTEGER NOT NULL,
    path TEXT NOT NULL, offset INTEGER NOT NULL, length INTEGER, "group" TEXT,
    row INTEGER, sha256 BLOB, size INTEGER, reason TEXT, detail TEXT
);
CREATE TABLE unread (
    number INTEGER PRIMARY KEY, path TEXT NOT NULL, files INTEGER NOT NULL, reason TEXT NOT NULL, detail TEXT
);
"""

# Records that were left out, and files that no record is made of.
_LEFT_OUT = """
    SELECT number, id, split, label, path, reason, detail, 1 AS files FROM records WHERE reason NOT NULL
    UNION ALL
    SELECT 1000000000 + number, path, NULL, NULL, path, reason, detail, files FROM unread
"""

# Train copies of a test image go. Without one in test: if labels differ, all train copies go, else all but the first.
_DUPLICATES = """
CREATE TEMP TABLE alike AS
    SELECT sha256, MIN(CASE split WHEN 'test' THEN number END) AS tested, MIN(number) AS first,
           COUNT(DISTINCT class) AS labels
    FROM records WHERE row IS NOT NULL GROUP BY sha256 HAVING COUNT(*) > 1;
CREATE INDEX temp.alike_by_content ON alike(sha256);
UPDATE records SET row = NULL,
    reason = CASE WHEN tested NOT NULL THEN 'also in test' WHEN labels > 1 THEN 'contradicting labels'
             ELSE 'duplicate' END,
    detail = 'same content as ' || (SELECT id FROM records AS other WHERE other.number = COALESCE(tested, first))
    FROM temp.alike AS alike
    WHERE records.row IS NOT NULL AND records.split = 'train' AND records.sha256 = alike.sha256
      AND (tested NOT NULL OR labels > 1 OR number > first);
UPDATE records SET detail =
    'same content as ' || (SELECT id FROM records AS other WHERE other.sha256 = records.sha256
                           AND other.reason = 'contradicting labels' AND other.class != records.class
                           ORDER BY other.number LIMIT 1) WHERE reason = 'contradicting labels';
DROP TABLE temp.alike;
"""


class Pending(NamedTuple):
    """A record that is still to be decoded."""

    number: int
    row: int
    path: str
    offset: int
    length: int | None


class Decoded(NamedTuple):
    """What became of one: sha256 and size of its bytes, and why it cannot be used (None: it can)."""

    number: int
    sha256: bytes
    size: int
    reason: str | None


class Unread(NamedTuple):
    """A file without a record, or a folder (its path ends in a slash) with `files` of them."""

    path: str
    files: int
    reason: str
    detail: str | None


class Index:
    """An open index; `writable` False promises that nobody writes it either."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        if writable:
            self._base = sqlite3.connect(path)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = NORMAL")
        else:
            uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
            self._base = sqlite3.connect(uri, uri=True, check_same_thread=False)

    def create(self, key: str) -> None:
        """Make the tables of an index for a store with this key."""
        self._base.executescript(_SCHEMA)
        self.remember("key", key)

    def recall(self, name: str) -> str | None:
        """Return the value that `remember` stored under `name`; None if it is missing or the file is not an index."""
        try:
            row = self._base.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        except sqlite3.DatabaseError:
            return None
        return None if row is None else str(row[0])

    def remember(self, name: str, value: str) -> None:
        """Store a value, and commit everything changed so far."""
        with self._base:
            self._base.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, value))

    def add(self, dataset: RawDataset, excluded: Collection[str] = ()) -> Iterator[int]:
        """Read the records into the index; yield the number of records after each thousand or fewer.

        Records whose ids are `excluded` are left out.

        Raises:
            DatasetError: the reader's own, or two records with one id.
        """
        classes = {name: number for number, name in enumerate(dataset.classes)}
        records, number, row = iter(dataset.records), 0, 0
        while chunk := list(islice(records, _INSERT_AT_ONCE)):
            lines = []
            for record in chunk:
                reason, detail = _reason_to_leave_out(record, classes, excluded)
                lines.append(
                    (
                        *(number, record.id, record.split, record.label, classes.get(record.label or "", -1)),
                        *(record.path, record.offset, record.length, record.group),
                        *(None if reason else row, reason, detail),
                    )
                )
                number, row = number + 1, row + (reason is None)
            self._base.executemany(
                'INSERT INTO records (number, id, split, label, class, path, offset, length, "group", row, reason,'
                " detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                lines,
            )
            yield len(chunk)
        self._base.commit()
        try:
            self._base.execute("CREATE UNIQUE INDEX by_id ON records(id)")
        except sqlite3.IntegrityError:
            twice = self._base.execute("SELECT id, MIN(path) FROM records GROUP BY id HAVING COUNT(*) > 1").fetchone()
            raise DatasetError(f"{twice[1]}: a second record has the id {twice[0]!r}; each must be unique") from None

    def add_unread(self, files: Iterable[Unread]) -> None:
        """Add files without a record."""
        with self._base:
            self._base.executemany("INSERT INTO unread (path, files, reason, detail) VALUES (?, ?, ?, ?)", files)

    def reads_below(self, folder: str) -> bool:
        """Return whether a record is read from `folder`, or from a folder below it."""
        # "0" is the character after "/".
        query = "SELECT 1 FROM records WHERE path >= ? AND path < ? LIMIT 1"
        return self._base.execute(query, (f"{folder}/", f"{folder}0")).fetchone() is not None

    def read_among(self, paths: Sequence[str]) -> Iterator[str]:
        """Yield those of `paths` that a record is read from."""
        for start in range(0, len(paths), _INSERT_AT_ONCE):
            part = paths[start : start + _INSERT_AT_ONCE]
            marks = ",".join("?" * len(part))
            for line in self._base.execute(f"SELECT DISTINCT path FROM records WHERE path IN ({marks})", part):
                yield line[0]

    @contextmanager
    def by_path(self) -> Iterator[None]:
        """Let records be looked up by their paths inside."""
        self._base.execute("CREATE INDEX IF NOT EXISTS by_path ON records(path)")
        yield
        self._base.execute("DROP INDEX by_path")

    def count(self, condition: str = "row IS NOT NULL") -> int:
        """Return the number of records that meet an SQL condition; by default of those with a row."""
        return int(self._base.execute(f"SELECT COUNT(*) FROM records WHERE {condition}").fetchone()[0])

    def total(self, expression: str) -> int:
        """Return the sum of an SQL integer expression over all rows."""
        return int(self._base.execute(f"SELECT TOTAL({expression}) FROM records WHERE row NOT NULL").fetchone()[0])

    def pending(self, size: int) -> Iterator[list[Pending]]:
        """Yield the records to decode in chunks of at most `size`, in order."""
        after = -1
        while True:
            chunk = [
                Pending(*line)
                for line in self._base.execute(
                    "SELECT number, row, path, offset, length FROM records"
                    " WHERE number > ? AND row IS NOT NULL AND sha256 IS NULL ORDER BY number LIMIT ?",
                    (after, size),
                )
            ]
            if not chunk:
                return
            after = chunk[-1].number
            yield chunk

    def finish(self, chunk: Iterable[Decoded]) -> None:
        """Note, in one transaction, what became of these records; one that has a reason loses its row."""
        with self._base:
            self._base.executemany(
                "UPDATE records SET sha256 = ?, size = ?, reason = ?, detail = ?,"
                " row = CASE WHEN ? IS NULL THEN row END WHERE number = ?",
                (
                    (one.sha256, one.size, one.reason and "does not decode", one.reason, one.reason, one.number)
                    for one in chunk
                ),
            )

    def leave_out_duplicates(self) -> None:
        """Leave out of train every image that is also in test, and every duplicate within train."""
        self._base.execute("CREATE INDEX IF NOT EXISTS by_content ON records(sha256)")
        self._base.executescript(_DUPLICATES)
        self._base.commit()

    def plan_moves(self) -> None:
        """Plan which of the last rows fill the rows of left-out images, so that no row stays empty."""
        self._base.execute("DROP TABLE IF EXISTS moves")
        self._base.execute("CREATE TABLE moves (source INTEGER PRIMARY KEY, target INTEGER NOT NULL)")
        self._base.execute("CREATE UNIQUE INDEX IF NOT EXISTS by_row ON records(row)")
        count = self.count()
        last = self._base.execute("SELECT row FROM records WHERE row >= ? ORDER BY row", (count,))
        rows = self._base.execute("SELECT row FROM records WHERE row < ? ORDER BY row", (count,))
        with self._base:
            holes = _missing((line[0] for line in rows), count)
            self._base.executemany("INSERT INTO moves VALUES (?, ?)", ((line[0], next(holes)) for line in last))

    def moves(self) -> Iterator[tuple[int, int]]:
        """Yield the planned (from, to)."""
        yield from self._base.execute("SELECT source, target FROM moves ORDER BY source")

    def renumber(self) -> None:
        """Give the records the rows that `moves` moved them to."""
        with self._base:
            self._base.execute("UPDATE records SET row = target FROM moves WHERE row = source")
            self._base.execute("DELETE FROM moves")

    def record(self, row: int) -> Record:
        """Return the record in `row`.

        Raises:
            IndexError: there is no such row.
        """
        line = self._base.execute(
            'SELECT id, split, label, path, offset, length, "group" FROM records WHERE row = ?', (int(row),)
        ).fetchone()
        if line is None:
            raise IndexError(f"row {row} is not in this data set")
        return Record(*line)

    def sha256(self, row: int) -> bytes:
        """Return the digest of the encoded bytes of the record in `row`."""
        (digest,) = self._base.execute("SELECT sha256 FROM records WHERE row = ?", (int(row),)).fetchone()
        return bytes(digest)

    def digests(self) -> list[bytes]:
        """Return the digest of the encoded bytes of each row, in the order of the rows."""
        lines = self._base.execute("SELECT sha256 FROM records WHERE row IS NOT NULL ORDER BY row")
        return [bytes(sha256) for (sha256,) in lines]

    def column(self, expression: str, rows: int) -> npt.NDArray[np.int64]:
        """Return an SQL integer expression of each row, in the order of the rows."""
        lines = self._base.execute(f"SELECT {expression} FROM records WHERE row IS NOT NULL ORDER BY row")
        return np.fromiter((line[0] for line in lines), np.int64, rows)

    def groups(self, rows: int) -> npt.NDArray[np.int64]:
        """Return a number for each row's group, -1 for none."""
        return self.column('CASE WHEN "group" IS NULL THEN -1 ELSE DENSE_RANK() OVER (ORDER BY "group") END', rows)

    def twins(self, rows: int) -> npt.NDArray[np.int64]:
        """Return, for each row with duplicated content, the lowest row that shares it; else -1."""
        return self.column(
            "CASE WHEN COUNT(*) OVER (PARTITION BY sha256) > 1 THEN MIN(row) OVER (PARTITION BY sha256) ELSE -1 END",
            rows,
        )

    def counts(self) -> Iterator[tuple[str, int, int]]:
        """Yield (split, class, number of rows); class -1 is without a label."""
        yield from self._base.execute(
            "SELECT split, class, COUNT(*) FROM records WHERE row NOT NULL GROUP BY split, class ORDER BY split, class"
        )

    def left_out(self, names: int = 5) -> Iterator[tuple[str, int, list[str]]]:
        """Yield (reason, how many files, the first ones by name), the most frequent first."""
        lines = self._base.execute(
            f"SELECT reason, SUM(files) FROM ({_LEFT_OUT}) GROUP BY reason ORDER BY SUM(files) DESC, reason"
        ).fetchall()
        for reason, count in lines:
            first = self._base.execute(
                f"SELECT id || COALESCE(' (' || detail || ')', '') FROM ({_LEFT_OUT})"
                " WHERE reason = ? ORDER BY number LIMIT ?",
                (reason, names),
            )
            yield reason, count, [line[0] for line in first]

    def first_left_out(self, number: int) -> str:
        """Return why the records of a class were left out: how many, and the first of them by name and reason."""
        condition = "FROM records WHERE class = ? AND split = 'train' AND reason NOT NULL"
        (count,) = self._base.execute(f"SELECT COUNT(*) {condition}", (number,)).fetchone()
        first = self._base.execute(
            f"SELECT id, reason, detail {condition} ORDER BY number LIMIT 1", (number,)
        ).fetchone()
        if first is None:
            return "for nothing there is labelled with it"
        name, reason, detail = first
        return f"for its {count} files are left out, first {name}: {reason}" + (f" ({detail})" if detail else "")

    def write_left_out(self, path: Path) -> None:
        """Write a CSV of all that was left out, each with its reason and the number of files that it is."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("id", "split", "label", "path", "reason", "detail", "files"))
            rows = self._base.execute(
                f"SELECT id, split, label, path, reason, detail, files FROM ({_LEFT_OUT}) ORDER BY number"
            )
            writer.writerows([spreadsheet_cell(value) for value in row] for row in rows)

    def hash_content(self) -> "hashlib._Hash":
        """Return a sha256, to be added to, over id, split, label and content of all rows, in their order.

        The order is part of it: training takes the rows in an order that is drawn from their numbers.
        """
        total = hashlib.sha256()
        for line in self._base.execute("SELECT id, split, label, sha256 FROM records WHERE row NOT NULL ORDER BY row"):
            total.update(repr(line).encode())
        return total

    def close(self) -> None:
        """Close the index; a writable one is left as one single file."""
        self._base.close()

    def seal(self) -> None:
        """Fold the journal in, so that the file can be read from a read-only place."""
        self._base.commit()
        self._base.execute("PRAGMA journal_mode = DELETE")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _reason_to_leave_out(
    record: Record, classes: dict[str, int], excluded: Collection[str]
) -> tuple[str | None, str | None]:
    if record.id in excluded:
        return EXCLUDED, None
    if record.label is None:
        return (None, None) if record.split == "test" else ("no label", None)
    return (None, None) if record.label in classes else ("unknown label", record.label)


def _missing(rows: Iterator[int], end: int) -> Iterator[int]:
    """Yield the numbers below `end` that ascending `rows` leaves out."""
    expected = 0
    for row in rows:
        yield from range(expected, row)
        expected = row + 1
    yield from range(expected, end)


def spreadsheet_cell(value: object) -> object:
    """Return a cell that a spreadsheet does not take for a formula: names of files may begin with "="."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
