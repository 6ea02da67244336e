"""Load a server with locust while versions are swapped, and find the one wrong answer in 10,000.

    python -m benchmarks.load                       100,000 requests with swaps, 40,000 with a planted fault; 15 minutes
    python -m benchmarks.load --requests 5000 --planted 25000

What `make load` runs decides: every answer is held to the version that gave it. The last line is one JSON document.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import small_server
from benchmarks.result import Origin
from benchmarks.small_server import MODEL
from handlers.atomic import write_json
from serving.model_store import path_of

RESULT, WORK = Path("benchmarks/results/load.json"), Path("runs/bench-load")
ONE_IN = 10_000
PLANTED = f"""
_handle, _asked = ImageHandler.handle, 0
def _wrongly(self, data, context):
    global _asked
    import json
    answers = _handle(self, data, context)
    for number, answer in enumerate(answers):
        _asked += 1
        if _asked % {ONE_IN} == 0:
            rows = json.loads(answer)
            answers[number] = json.dumps(dict(zip(rows, reversed(list(rows.values()))))).encode()
    return answers
ImageHandler.handle = _wrongly
"""


def run(root: Path, what: str, goal: str, *arguments: str) -> dict[str, Any]:
    """Load the server of `root` as `make load` does; return what came of it."""
    command = [sys.executable, "-m", "tests.load.run", "--p95", "5000", *arguments]
    done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(small_server.ROOT)})
    history = json.loads((root / "logs" / "load" / "history.json").read_text())
    rows = history["seconds"]
    failures = sum(row["failed"] for row in rows)
    swaps = [each for each in history["swaps"] if not each["error"]]
    return {
        "what": what.format(swaps=len(swaps)),
        "goal": goal,
        "exit": done.returncode,
        "requests": sum(row["answered"] for row in rows) + failures,
        "failures": failures,
        "seconds": len(rows),
        "swaps": len(swaps),
        "errors": [each["error"] for each in history["swaps"] if each["error"]],
    }


def main() -> int:
    """Measure, print and keep it; 1 where it is not as it should be."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--planted", type=int, default=40_000, help="requests to the handler that is wrong at times")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    origin = Origin("load", sys.argv[1:])
    root = Path.cwd() / WORK
    small_server.prepare(root)
    with small_server.serving(root, [f"{MODEL}=1.0"]):
        asked = ("--requests", str(arguments.requests), "--swap", f"{MODEL}=1.0,2.0")
        swapped = run(root, "locust, {swaps} swaps meanwhile", "0, exit 0", *asked)
    small_server.prepare(root, ["1.0"])
    small_server.spoil(path_of(MODEL, "1.0", root / "model_store"), PLANTED)
    with small_server.serving(root, [f"{MODEL}=1.0"]):
        asked = ("--requests", str(arguments.planted), "--mix", "single=1")
        planted = run(root, f"locust, one answer in {ONE_IN:,} wrong", "found, exit not 0", *asked)
    document = {
        "benchmark": "load",
        **origin.document(),
        "runs": [swapped, planted],
    }
    table = Table(title="locust")
    for heading in ("", "requests", "failed", "seconds", "exit"):
        table.add_column(heading, justify="right")
    for each in (swapped, planted):
        table.add_row(*(str(each[key]) for key in ("what", "requests", "failures", "seconds", "exit")))
    Console(markup=False, emoji=False).print(table)
    write_json(arguments.output, document)
    print(json.dumps(document))
    return int(swapped["exit"] != 0 or planted["exit"] == 0)


if __name__ == "__main__":
    sys.exit(main())
