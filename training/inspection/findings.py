"""What an inspection reports about single images, and the CSV files that hold it, one row a finding."""

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable
from pathlib import Path

from handlers import atomic
from training.data.index import spreadsheet_cell

LABELS, ISSUES = "labels.csv", "issues.csv"  # the names of the files
COLUMNS = ("path", "split", "class", "issue", "score", "suggested", "other")

LABEL = "label"
COPY, MIRRORED, ALIKE = "copy", "mirrored copy", "near-duplicate"
ACROSS = " across splits"  # added to one of these three
BLURRED, DARK, TINY, ODD_SHAPE = "blurred", "dark", "tiny", "odd shape"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One issue of the image in `row`, with the class that it suggests and the row of the other image, if it has one.

    `score` is the probability of a label, the similarity of copies, at most 1, or the value that was measured.
    """

    row: int
    issue: str
    score: float
    suggested: str = ""
    other: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Names:
    """Names of rows in a CSV file: of the image, of its side of the split, and of its class."""

    image: Callable[[int], str]
    side: Callable[[int], str]
    label: Callable[[int], str]


def write(findings: Iterable[Finding], names: Names, path: Path) -> None:
    """Write findings in their order, to a file that is replaced as a whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for finding in findings:
        other = "" if finding.other is None else names.image(finding.other)
        place = (names.image(finding.row), names.side(finding.row), names.label(finding.row))
        cells = (*place, finding.issue, f"{finding.score:.4g}", finding.suggested, other)
        writer.writerow([spreadsheet_cell(cell) for cell in cells])
    atomic.write_text(path, text.getvalue())
