"""Load a server with locust while versions are swapped, and find the one wrong answer in 10,000.

    python -m benchmarks.load                       100,000 requests with swaps, 40,000 with a planted fault; 15 minutes
    python -m benchmarks.load --requests 5000 --planted 25000

Both are runs of `make load`, which checks every answer against the version that gave it. The last line is one JSON
document.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import console, small_server
from benchmarks.harness.small_server import MODEL
from benchmarks.result import Origin
from serving.store.model_store import path_of

RESULT, WORK = Path("benchmarks/results/load.json"), Path("runs/bench-load")
ONE_IN = 10_000
PLANTED = f"""
_handle, _requests = ImageHandler.handle, 0
def _wrongly(self, data, context):
    global _requests
    import json
    answers = _handle(self, data, context)
    for number, answer in enumerate(answers):
        _requests += 1
        if _requests % {ONE_IN} == 0:
            rows = json.loads(answer)
            answers[number] = json.dumps(dict(zip(rows, reversed(list(rows.values()))))).encode()
    return answers
ImageHandler.handle = _wrongly
"""


def run(root: Path, title: str, goal: str, *arguments: str) -> dict[str, Any]:
    """Load the server of `root` as `make load` does; return the figures."""
    command = [sys.executable, "-m", "tests.load.run", "--p95", "5000", *arguments]
    process = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(small_server.ROOT)})
    history = json.loads((root / "logs" / "load" / "history.json").read_text())
    rows, errors = history["seconds"], [swap["error"] for swap in history["swaps"] if swap["error"]]
    swaps, failures = len(history["swaps"]) - len(errors), sum(row["failed"] for row in rows)
    return {
        "what": title.format(swaps=swaps),
        "goal": goal,
        "exit": process.returncode,
        "requests": sum(row["answered"] for row in rows) + failures,
        "failures": failures,
        "seconds": len(rows),
        "swaps": swaps,
        "errors": errors,
    }


def main() -> int:
    """Measure, print and write the result; 1 where a request failed or the planted fault was not noticed."""
    parser = console.parser("load", __doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--planted", type=int, default=40_000, help="requests to the handler with the planted fault")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    origin = Origin("load", sys.argv[1:])
    root = Path.cwd() / WORK
    small_server.prepare(root)
    with small_server.serving(root, [f"{MODEL}=1.0"]):
        arguments = ("--requests", str(options.requests), "--swap", f"{MODEL}=1.0,2.0")
        swapped = run(root, "locust, {swaps} swaps meanwhile", "0, exit 0", *arguments)
    small_server.prepare(root, ["1.0"])
    small_server.spoil(path_of(MODEL, "1.0", root / "model_store"), PLANTED)
    with small_server.serving(root, [f"{MODEL}=1.0"]):
        arguments = ("--requests", str(options.planted), "--mix", "single=1")
        planted = run(root, f"locust, one answer in {ONE_IN:,} wrong", "found, exit not 0", *arguments)
    rows = [[row[key] for key in ("what", "requests", "failures", "seconds", "exit")] for row in (swapped, planted)]
    console.print_table("locust", ("", "requests", "failed", "seconds", "exit"), rows)
    failed = swapped["exit"] != 0 or planted["exit"] == 0
    return origin.publish({"runs": [swapped, planted]}, options.output, failed=failed)


if __name__ == "__main__":
    sys.exit(main())
