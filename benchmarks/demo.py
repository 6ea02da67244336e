"""Measure how long `make demo` takes in a clean clone, the first time and the second.

    python -m benchmarks.demo

Clones the committed state of this repository into an empty folder, installs there, and runs `make demo` twice, as a new
user would. Times count from the end of installing. Writes benchmarks/results/demo.json; the last line is that document.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.result import SERVING, Origin

RESULT = Path("benchmarks/results/demo.json")
OFFSET = "1700"  # of the ports: another server of this machine is not disturbed


def measure(folder: Path) -> list[dict[str, Any]]:
    """Clone into `folder`, run the demo twice, and return the summary of each run; times in seconds.

    Raises:
        subprocess.CalledProcessError: a command failed; its reason is printed above.
    """
    # The environment of a new user: without the Python and the settings of this one.
    ours = ("PYTHON", "VIRTUAL_ENV", "SIGHTLINE", "OMP_", "MAKE", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment["SIGHTLINE_PORT_OFFSET"] = OFFSET
    clone = folder / "sightline"
    subprocess.run(["git", "clone", "--quiet", str(Path.cwd()), str(clone)], check=True)

    def make(verb: str) -> float:
        start = time.perf_counter()
        subprocess.run(["make", verb], cwd=clone, env=environment, check=True)
        return time.perf_counter() - start

    print(f"installing took {make('setup'):.0f} s", flush=True)
    runs = []
    try:
        for title in ("the first time", "the second time"):
            make("demo")
            runs.append(json.loads((clone / "logs" / "demo.json").read_text()) | {"title": title})
    finally:
        make("stop")
    return runs


def main() -> int:
    """Measure, write the result and print it."""
    origin = Origin("demo", (), code=(*SERVING, "training", "pipeline"))
    with tempfile.TemporaryDirectory(prefix="sightline-demo-") as folder:
        try:
            runs = measure(Path(folder))
        except subprocess.CalledProcessError as error:
            print(f"error: {' '.join(error.cmd)} failed: its reason is printed above", file=sys.stderr)
            return 1
    return origin.publish({"runs": runs}, RESULT)


if __name__ == "__main__":
    sys.exit(main())
