"""The benchmarks of large numbers of images, at their smallest: what they write is whole, and makes a table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.pages.results import TABLES
from synthetic import fingers

ROOT = Path(__file__).parents[2]
SMALLEST = {
    "reference_loop": ("--rounds", "1", "--steps", "1", "--images", "100"),
    "epoch": ("--images", "200", "400", "--rounds", "1", "--steps", "2"),
    "score": ("--images", "100", "200", "--rounds", "1", "--kills", "1"),
    "search": (
        "raw",
        "--dataset",
        "fingers",
        "--trials",
        "2",
        "--minutes",
        "0.05",
        "--seeds",
        "2",
        "network=small_cnn",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", SMALLEST)
def test_the_result_makes_a_table(benchmark: str, tmp_path: Path) -> None:
    if benchmark == "search":
        fingers.generate(tmp_path / "raw" / "fingers", images_per_class=12)
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", *SMALLEST[benchmark]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    # 1: so small a number of steps or images misses a goal, or reaches it, by chance.
    assert done.returncode in (0, 1) and done.stdout, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    results = tmp_path / "benchmarks" / "results"
    assert document == json.loads((results / f"{benchmark}.json").read_text())
    lines = TABLES[benchmark](results).splitlines()
    assert lines[0].count("|") == lines[2].count("|") and len(lines) >= 4
    if benchmark == "score":
        assert document["kills"]["equal"] and document["kills"]["rows"] == 200
