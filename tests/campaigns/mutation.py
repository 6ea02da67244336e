"""How many small changes of the code the unit tests notice, for a sample of `handlers/` and `training/data/splits.py`.

    python -m tests.campaigns.mutation                 400 mutants, about half an hour on 2 cores
    python -m tests.campaigns.mutation --sample 40     fewer
    python -m tests.campaigns.mutation --minutes 60    as many as an hour is enough for, in the order of drawing

mutmut (`uv pip install mutmut`) changes one expression at a time in a copy of the checkout and runs the unit tests that
reach it. The sample is drawn with a fixed seed from the changes of code; changes of text alone (messages) are left out.
Seeds 0 and 1 showed which tests were missing while they were written, so a score comes from another seed.
A mutant counts as noticed if a test fails or runs into its time limit, as missed if all pass or no test reaches it.
Prints the missed mutants as diffs and, as its last line, one JSON document.
"""

import fnmatch
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import console
from benchmarks.result import CAMPAIGNS, ROOT, Origin, publish
from training.scores import plain, proportion

RESULT = Path("benchmarks/results/mutation.json")
MUTATED = ["handlers/**/*.py", "training/*splits.py"]  # `*` stands for folders too
COPIED = ["benchmarks", "pipeline", "serving", "tests", "config.properties"]
SEED, SAMPLE, GOAL = 2, 400, 0.85
REPORT = "sample.json"
TIMED = "not (made_to_be_slow or take_long)"  # these measure seconds, which a mutated copy takes more of
NOTICED = ("killed", "timeout", "segfault", "suspicious", "caught by type check")
SETTINGS = """
[tool.mutmut]
source_paths = ["handlers", "training"]
only_mutate = {only}
also_copy = {copied}
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = [
  "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-k", "{timed}",
]
process_isolation = "forkserver"
timeout_constant = 20.0
"""


class MutationError(Exception):
    """mutmut is missing or stopped early."""


def tests_of(sources: Iterable[Path], folder: Path) -> list[str]:
    """Return the unit tests that are named after the sources, as paths below the checkout."""
    names = {*(f"test_{path.stem}" for path in sources), "test_handler"}
    paths = [path for path in sorted(folder.rglob("test_*.py")) if path.stem in names]
    return [str(path.relative_to(folder.parents[1])) for path in paths]


def measure(sample: int, seed: int, minutes: float, folder: Path) -> list[dict[str, Any]]:
    """Return the mutants of a sample that `minutes` were enough for, tried in a copy of the checkout at `folder`.

    Raises:
        MutationError: mutmut is not installed, or stopped early; its output is on the screen.
    """
    try:
        importlib.import_module("mutmut")
    except ImportError as error:
        raise MutationError("mutmut is not installed: uv pip install mutmut") from error
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = list(filter(None, tracked.stdout.split("\0")))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    sources = [Path(name) for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in MUTATED)]
    settings = SETTINGS.format(
        only=MUTATED, copied=COPIED, timed=TIMED, tests=tests_of(sources, ROOT / "tests" / "unit")
    )
    with open(folder / "pyproject.toml", "a") as file:
        file.write(settings)
    command = [sys.executable, "-P", "tests/campaigns/mutant_sample.py", str(sample), str(seed), str(minutes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if subprocess.run(command, cwd=folder, env=environment, stdout=sys.stderr, check=False).returncode:
        raise MutationError("mutmut stopped early: its reason stands above")
    rows: list[dict[str, Any]] = json.loads((folder / REPORT).read_text())
    return rows


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = console.parser("mutation", __doc__, CAMPAIGNS)
    parser.add_argument("--sample", type=int, default=SAMPLE, help="number of mutants")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--minutes", type=float, default=0, help="time after which no more are tried; 0 for no limit")
    options = parser.parse_args(arguments)
    code = ("handlers", "training/data/splits.py", "tests/unit")
    origin = Origin("mutation", arguments, package=CAMPAIGNS, code=code)
    try:
        with tempfile.TemporaryDirectory(prefix="sightline-mutants-") as folder:
            rows = measure(options.sample, options.seed, options.minutes, Path(folder) / "copy")
    except MutationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    missed = [row for row in rows if row["state"] not in NOTICED]
    score = proportion(len(rows) - len(missed), len(rows))
    states = dict(Counter(row["state"] for row in rows))
    for row in missed:
        print(f"{row['mutant']} ({row['state']})\n{row['diff']}\n")
    about = {"benchmark": "mutation", **origin.document(), "seed": options.seed, "sample": options.sample}
    document = {**about, "tried": len(rows), "states": states, "goal": GOAL, "score": plain(score), "missed": missed}
    failed = score is None or score.value < GOAL
    return publish(document, RESULT if options.sample == SAMPLE else None, failed=failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
