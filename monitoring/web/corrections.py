"""Labels that a person gives on the page, as a table that `make feedback` reads.

logs/predictions/<model>/corrections.csv has a line for each label: by the id of a logged answer, or else by the
SHA-256 of its image.
"""

import csv
import io
import re
from pathlib import Path

from handlers import atomic
from monitoring.web.exchange import Refusal

FILE = "corrections.csv"
COLUMNS = ("request_id", "sha256", "label")
ID = re.compile(r"[!-~]{1,128}")  # of a request, as the log takes it
DIGEST = re.compile(r"[0-9a-f]{64}")


def add(folder: Path, request_id: str, sha256: str, label: str) -> Path:
    """Add a label to the table in a folder, which is written whole; return its path.

    Raises:
        Refusal: the id or the digest cannot be one.
    """
    if not DIGEST.fullmatch(sha256) or not (ID.fullmatch(request_id) or not request_id):
        raise Refusal(
            400, "BadRequest", "a label needs the sha256 of its image, and the id of its answer if it has one"
        )
    path = folder / FILE
    folder.mkdir(parents=True, exist_ok=True)
    with atomic.locked(folder):
        text = path.read_text(encoding="utf-8") if path.is_file() else _line(COLUMNS)
        atomic.write_text(path, text + _line((request_id, "" if request_id else sha256, label)))
    return path


def _line(fields: tuple[str, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue()
