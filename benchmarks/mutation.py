"""How many small changes of the code the unit tests notice, for a sample of `handlers/` and `training/splits.py`.

    python -m benchmarks.mutation                 400 mutants, about an hour on 2 cores
    python -m benchmarks.mutation --sample 40     fewer

mutmut (`uv pip install mutmut`) changes one expression at a time in a copy of the checkout and runs the unit tests that
reach it. The sample is drawn with a fixed seed from the changes of code; changes of text alone (messages) are left out.
A mutant counts as noticed if a test fails or runs into its time limit, as missed if all pass or no test reaches it.
Prints the missed mutants as diffs and, as its last line, one JSON document.
"""

import argparse
import ast
import difflib
import functools
import importlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.result import Origin
from handlers.atomic import write_json
from training.scores import plain, proportion

RESULT = Path("benchmarks/results/mutation.json")
ROOT = Path(__file__).parents[1]
MUTATED = ["handlers/*.py", "training/splits.py"]
COPIED = ["benchmarks", "pipeline", "serving", "tests", "config.properties"]
SEED, SAMPLE, GOAL = 0, 400, 0.85
REPORT = "sample.json"
NOTICED = ("killed", "timeout", "segfault", "suspicious", "caught by type check")
SETTINGS = """
[tool.mutmut]
source_paths = ["handlers", "training"]
only_mutate = {only}
also_copy = {copied}
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-p", "no:cacheprovider"]
process_isolation = "forkserver"
timeout_constant = 20.0
"""


class MutationError(Exception):
    """mutmut is missing or stopped early."""


def only_text_differs(before: str, after: str) -> bool:
    """Return whether two sources are the same but for string literals."""
    return _without_text(before) == _without_text(after)


def _without_text(source: str) -> str:
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


def tests_of(sources: Iterable[Path], folder: Path) -> list[str]:
    """Return the unit tests that are named after the sources, as paths below the checkout."""
    names = {f"test_{path.stem}" for path in sources} | {"test_handler", "test_plugins", "test_ahead"}
    paths = sorted(folder.glob("test_*.py"))
    return [str(path.relative_to(folder.parents[1])) for path in paths if path.stem in names]


def drive(sample: int, seed: int) -> None:
    """Run mutmut in the current directory on a sample of its mutants, and write their states to `REPORT`."""
    import mutmut.__main__ as tool
    from mutmut.mutation import diff_apply
    from mutmut.stats import status_by_exit_code

    collect, read = tool.collect_source_file_mutation_data, functools.cache(diff_apply.read_mutants_module)
    chosen: list[Any] = []
    diffs: dict[str, str] = {}

    def sources(mutant: Any) -> tuple[str, str]:
        module = read(str(mutant[0].path))
        functions = (
            diff_apply.read_original_function(module, mutant[1]),
            diff_apply.read_mutant_function(module, mutant[1]),
        )
        before, after = (module.code_for_node(function).strip() for function in functions)
        return before, after

    def sampled(*, mutant_names: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
        mutants, files = collect(mutant_names=tuple(mutant_names))
        if not chosen:
            code = [
                mutant
                for mutant in sorted(mutants, key=lambda each: each[1])
                if not only_text_differs(*sources(mutant))
            ]
            chosen.extend(random.Random(seed).sample(code, min(sample, len(code))))
            diffs.update({mutant[1]: _diff(*sources(mutant)) for mutant in chosen})
            print(f"{len(mutants)} mutants, {len(code)} of them change code, {len(chosen)} are tried")
        return chosen, files

    tool.collect_source_file_mutation_data = sampled
    tool._run((), os.cpu_count())
    rows = [
        {
            "mutant": name,
            "file": str(data.path),
            "state": status_by_exit_code[data.exit_code_by_key[name]],
            "diff": diffs[name],
        }
        for data, name, _ in sorted(chosen, key=lambda each: each[1])
    ]
    Path(REPORT).write_text(json.dumps(rows))


def _diff(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def measure(sample: int, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Return the mutants of a sample with their states, tried in a copy of the checkout at `folder`.

    Raises:
        MutationError: mutmut is not installed, or stopped early; its output is on the screen.
    """
    try:
        importlib.import_module("mutmut")
    except ImportError as error:
        raise MutationError("mutmut is not installed: uv pip install mutmut") from error
    shutil.copytree(
        ROOT, folder, ignore=shutil.ignore_patterns(".*", "data", "runs", "logs", "model_store", "__pycache__")
    )
    sources = [path for pattern in MUTATED for path in ROOT.glob(pattern)]
    settings = SETTINGS.format(only=MUTATED, copied=COPIED, tests=tests_of(sources, ROOT / "tests" / "unit"))
    with open(folder / "pyproject.toml", "a") as file:
        file.write(settings)
    command = [sys.executable, "-c", f"from benchmarks.mutation import drive; drive({sample}, {seed})"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if subprocess.run(command, cwd=folder, env=environment, stdout=sys.stderr, check=False).returncode:
        raise MutationError("mutmut stopped early: its reason stands above")
    rows: list[dict[str, Any]] = json.loads((folder / REPORT).read_text())
    return rows


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=SAMPLE, help="number of mutants")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    origin = Origin("mutation", arguments, code=("handlers", "training/splits.py", "tests/unit"))
    try:
        with tempfile.TemporaryDirectory(prefix="sightline-mutants-") as folder:
            rows = measure(options.sample, options.seed, Path(folder) / "copy")
    except MutationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    missed = [row for row in rows if row["state"] not in NOTICED]
    score = proportion(len(rows) - len(missed), len(rows))
    states = dict(Counter(row["state"] for row in rows))
    for row in missed:
        print(f"{row['mutant']} ({row['state']})\n{row['diff']}\n")
    about = {"benchmark": "mutation", **origin.document(), "seed": options.seed, "sample": len(rows), "states": states}
    document = {**about, "goal": GOAL, "score": plain(score), "missed": missed}
    if len(rows) == SAMPLE:
        write_json(RESULT, document)
    print(json.dumps(document))
    return int(score is None or score.value < GOAL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
