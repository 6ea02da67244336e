"""Does `make data` read odd folders correctly: the right images, or one clear line, and every file used or named?

    python -m tests.campaigns.layouts
    python -m tests.campaigns.layouts --only "dogs against cats"

Each layout is drawn and prepared by the command of `make data`. A refusal is right if it is the expected one, in one
line without a traceback, and leaves nothing behind. Otherwise the classes, the images of each class on each side and
the remarks must be the expected ones, and the used files and those in left_out.csv must add up to all files.

Writes benchmarks/results/layouts.json; the last line is the same JSON document.
"""

import csv
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import console
from benchmarks.result import CAMPAIGNS, ROOT, TRAINING, Origin
from tests.campaigns.layout_cases import LAYOUTS, Counts, Layout

RESULT = Path("benchmarks/results/layouts.json")
PREPARED = Path("data/processed/odd")
MAX_LINE = 700
Process = subprocess.CompletedProcess[str]


def attempt(layout: Layout, folder: Path) -> dict[str, Any]:
    """Draw a layout in an empty `folder`, prepare it, and return the outcome; `fault` is "" if it is right."""
    raw = folder / "raw images"
    raw.mkdir()
    layout.draw(raw)
    arguments = [layout.reader, "--raw", str(raw / layout.raw), "--name", PREPARED.name, "augment=0"]
    command = [sys.executable, "-m", "pipeline.data", *arguments, "dataset.image_size=16", *layout.settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    start = time.perf_counter()
    process = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    seconds = round(time.perf_counter() - start, 2)
    if process.returncode:
        line = process.stderr.rstrip("\n").splitlines()[-1] if process.stderr else ""
        return {"came": "refused", "line": line, "seconds": seconds, "fault": refusal_fault(layout, process, folder)}
    prepared = folder / PREPARED
    counts, files = read_counts(prepared), read_files(prepared)
    return {"came": "read", **files, "seconds": seconds, "fault": reading_fault(layout, process, counts, files)}


def refusal_fault(layout: Layout, process: Process, folder: Path) -> str:
    """Return what is wrong with a refusal, or ""."""
    lines = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    if not isinstance(layout.right, str):
        return f"refused: {process.stderr.strip()[-300:]}"
    if (
        "Traceback" in process.stderr + process.stdout
        or len(lines) != 1
        or not process.stderr.endswith(f"{lines[0]}\n")
    ):
        return f"not one line: {process.stderr.strip()[-300:]}"
    if not re.search(layout.right, lines[0]) or len(lines[0]) > MAX_LINE:
        return f"another line: {lines[0][:MAX_LINE]}"
    files = [path.name for path in (folder / PREPARED.parent).glob("*")]
    files += [path.name for path in (folder / "data" / "raw" / "unpacked").glob("*")]
    return f"left behind: {', '.join(files)}" if files else ""


def reading_fault(layout: Layout, process: Process, counts: Counts, files: dict[str, int]) -> str:
    """Return what is wrong with the images that were read, or ""."""
    if isinstance(layout.right, str):
        return f"not refused: {counts}"
    if counts != layout.right:
        return f"read {counts}"
    if files["used"] + files["named"] != files["there"]:
        return f"of {files['there']} files {files['used']} used, {files['named']} named"
    if not re.search(layout.output, process.stderr):
        return f"not said: {process.stderr.strip()[-300:]}"
    return ""


def read_counts(prepared: Path) -> Counts:
    """Return the images of each class of a prepared data set that has any, as (train, test)."""
    counts = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))["counts"]
    names = {*counts["train"], *counts["test"]}
    return {name: (counts["train"].get(name, 0), counts["test"].get(name, 0)) for name in names}


def read_files(prepared: Path) -> dict[str, int]:
    """Return the number of files in the raw folder of a prepared data set, of those used, and of those named."""
    document = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))
    with sqlite3.connect(prepared / "index.sqlite") as index:
        (used,) = index.execute("SELECT COUNT(DISTINCT path) FROM records WHERE row NOT NULL").fetchone()
    with open(prepared / "left_out.csv", newline="", encoding="utf-8") as file:
        named = sum(int(line["files"]) for line in csv.DictReader(file))
    total = sum(len(names) for _, _, names in os.walk(document["raw"], followlinks=True))
    return {"there": total, "used": used + len(document["lists"]), "named": named}


def main(arguments: Sequence[str] | None = None) -> int:
    """Try all layouts, print a line for each, and write the result; 1 where one is wrong."""
    parser = console.parser("layouts", __doc__, CAMPAIGNS)
    parser.add_argument("--only", choices=LAYOUTS, metavar="LAYOUT", help="one layout, without a result file")
    options = parser.parse_args(arguments)
    origin = Origin("layouts", [], package=CAMPAIGNS, code=(*TRAINING, "pipeline", "tests/campaigns/layout_cases.py"))
    rows = []
    for name in [options.only] if options.only else LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            row = {"layout": name, **attempt(LAYOUTS[name], Path(folder))}
            row |= {key: str(row[key]).replace(folder, "") for key in ("line", "fault") if key in row}
        state, files = "FAULT" if row["fault"] else "right", ""
        if row["came"] == "read":
            files = f"{row['there']:>4} = {row['used']} + {row['named']}"
        print(f"{state:5}  {name:50} {row['came']:8} {files:16} {row['fault']}", flush=True)
        rows.append(row)
    right = sum(not row["fault"] for row in rows)
    figures = {"layouts": len(rows), "right": right, "rows": rows}
    return origin.publish(figures, None if options.only else RESULT, failed=right != len(rows))


if __name__ == "__main__":
    sys.exit(main())
