"""Does `make data` do right by odd folders: the right images, or one clear line, and every file used or named?

    python -m benchmarks.layouts
    python -m benchmarks.layouts --only "dogs against cats"

Each layout is drawn, and prepared by the command that `make data` runs. A refusal is right where it is the expected
one, in one line without a traceback, and nothing half-made is left. Else the classes, the images of each class on each
side and the remarks have to be the expected ones, and the files that are used and those that left_out.csv names as many
as there are.

Writes benchmarks/results/layouts.json; the last line is the same JSON document.
"""

import argparse
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

from benchmarks.layout_cases import LAYOUTS, Counts, Layout
from benchmarks.result import ROOT, TRAINING, Origin
from handlers.atomic import write_json

RESULT = Path("benchmarks/results/layouts.json")
PREPARED = Path("data/processed/odd")
LONGEST_LINE = 700


def attempt(layout: Layout, folder: Path) -> dict[str, Any]:
    """Draw a layout in an empty `folder`, prepare it there, and return the outcome; `fault` is "" if it is right."""
    raw = folder / "raw images"
    raw.mkdir()
    layout.draw(raw)
    arguments = [layout.reader, "--raw", str(raw / layout.raw), "--name", PREPARED.name, "augment=0"]
    command = [sys.executable, "-m", "pipeline.data", *arguments, "dataset.image_size=16", *layout.settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    seconds = round(time.perf_counter() - began, 2)
    if done.returncode:
        line = done.stderr.rstrip("\n").splitlines()[-1] if done.stderr else ""
        return {"came": "refused", "line": line, "seconds": seconds, "fault": refusal_fault(layout, done, folder)}
    prepared = folder / PREPARED
    counts, files = read_counts(prepared), read_files(prepared)
    return {"came": "read", **files, "seconds": seconds, "fault": reading_fault(layout, done, counts, files)}


def refusal_fault(layout: Layout, done: "subprocess.CompletedProcess[str]", folder: Path) -> str:
    """Return in which way a refusal is not the one that is right, "" if it is."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if not isinstance(layout.right, str):
        return f"refused: {done.stderr.strip()[-300:]}"
    if "Traceback" in done.stderr + done.stdout or len(lines) != 1 or not done.stderr.endswith(f"{lines[0]}\n"):
        return f"not one line: {done.stderr.strip()[-300:]}"
    if not re.search(layout.right, lines[0]) or len(lines[0]) > LONGEST_LINE:
        return f"another line: {lines[0][:LONGEST_LINE]}"
    left = [path.name for path in (folder / PREPARED.parent).glob("*")]
    left += [path.name for path in (folder / "data" / "raw" / "unpacked").glob("*")]
    return f"left behind: {', '.join(left)}" if left else ""


def reading_fault(
    layout: Layout, done: "subprocess.CompletedProcess[str]", counts: Counts, files: dict[str, int]
) -> str:
    """Return in which way images that were read are not the right ones, "" if they are."""
    if isinstance(layout.right, str):
        return f"not refused: {counts}"
    if counts != layout.right:
        return f"read {counts}"
    if files["used"] + files["named"] != files["there"]:
        return f"of {files['there']} files {files['used']} used, {files['named']} named"
    if not re.search(layout.said, done.stderr):
        return f"not said: {done.stderr.strip()[-300:]}"
    return ""


def read_counts(prepared: Path) -> Counts:
    """Return the images of each class of a prepared data set that has any, as (train, test)."""
    counts = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))["counts"]
    names = {*counts["train"], *counts["test"]}
    return {name: (counts["train"].get(name, 0), counts["test"].get(name, 0)) for name in names}


def read_files(prepared: Path) -> dict[str, int]:
    """Return how many files are in the raw folder of a prepared data set, how many are used, and how many named."""
    document = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))
    with sqlite3.connect(prepared / "index.sqlite") as index:
        (used,) = index.execute("SELECT COUNT(DISTINCT path) FROM records WHERE row NOT NULL").fetchone()
    with open(prepared / "left_out.csv", newline="", encoding="utf-8") as file:
        named = sum(int(line["files"]) for line in csv.DictReader(file))
    there = sum(len(names) for _, _, names in os.walk(document["raw"], followlinks=True))
    return {"there": there, "used": used + len(document["lists"]), "named": named}


def main(arguments: Sequence[str] | None = None) -> int:
    """Try all layouts, print a table, and write the result; the exit status says whether all were right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=LAYOUTS, help="one layout, and write no result")
    options = parser.parse_args(arguments)
    origin = Origin("layouts", [], code=(*TRAINING, "pipeline", "benchmarks/layout_cases.py"))
    rows = []
    for name in [options.only] if options.only else LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            row = {"layout": name, **attempt(LAYOUTS[name], Path(folder))}
            row = {**row, **{key: str(row[key]).replace(folder, "") for key in ("line", "fault") if key in row}}
        files = f"{row['there']:>4} = {row['used']} + {row['named']}" if row["came"] == "read" else ""
        print(
            f"{'FAULT' if row['fault'] else 'right':5}  {name:50} {row['came']:8} {files:16} {row['fault']}", flush=True
        )
        rows.append(row)
    document = {
        "benchmark": "layouts",
        **origin.document(),
        "layouts": len(rows),
        "right": sum(not row["fault"] for row in rows),
        "rows": rows,
    }
    if not options.only:
        write_json(RESULT, document)
    print(json.dumps(document))
    return int(document["right"] != len(rows))


if __name__ == "__main__":
    sys.exit(main())
