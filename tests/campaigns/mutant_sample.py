"""Run mutmut in the current directory on a sample of its mutants, and write their states to `sample.json`.

    python -P tests/campaigns/mutant_sample.py SAMPLE SEED MINUTES    in the copy of `tests.campaigns.mutation`

Tries them in the order that they were drawn in, so that those of a run that ends early are a sample too; 0 minutes are
no limit.

Imports nothing of this repository: what is imported before mutmut starts its tests is not mutated.
"""

import ast
import difflib
import functools
import json
import os
import random
import signal
import sys
import textwrap
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import mutmut.__main__ as tool
from mutmut.mutation import diff_apply
from mutmut.state import state
from mutmut.stats import status_by_exit_code

REPORT = "sample.json"
FAILED = 255  # pytest refuses the tests of a mutant, for example a name that it does not find
SLOW = "exported"  # its tests compile networks for half a minute: the mutants of that module alone run them


def only_text_differs(before: str, after: str) -> bool:
    """Return whether two sources are the same but for string literals."""
    return _without_text(before) == _without_text(after)


def _without_text(source: str) -> str:
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


def drive(sample: int, seed: int, minutes: float) -> None:
    """Run mutmut in the current directory on a sample of its mutants, and write their states to `REPORT`."""
    collect, read = tool.collect_source_file_mutation_data, functools.cache(diff_apply.read_mutants_module)
    drawn: list[Any] = []
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
        if not drawn:
            code = [mutant for mutant in sorted(mutants, key=itemgetter(1)) if not only_text_differs(*sources(mutant))]
            drawn.extend(random.Random(seed).sample(code, min(sample, len(code))))
            diffs.update({mutant[1]: _diff(*sources(mutant)) for mutant in drawn})
            _cheap_tests_first()
            print(f"{len(mutants)} mutants, {len(code)} of them change code, {len(drawn)} are tried")
        return drawn, files

    tool.collect_source_file_mutation_data = sampled
    tool.estimated_worst_case_time = lambda mutant_name: list(diffs).index(mutant_name)  # mutmut sorts by it
    signal.signal(signal.SIGALRM, signal.default_int_handler)  # mutmut ends well where it is interrupted
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    tool._run((), os.cpu_count())
    signal.setitimer(signal.ITIMER_REAL, 0)
    rows = [
        {
            "mutant": name,
            "file": str(data.path),
            "state": _state(data.exit_code_by_key[name]),
            "diff": diffs[name],
        }
        for data, name, _ in sorted(drawn, key=itemgetter(1))
        if data.exit_code_by_key[name] is not None
    ]
    Path(REPORT).write_text(json.dumps(rows))


def _state(code: int) -> str:
    """Return the state of a mutant by the exit code of its tests; mutmut calls it a time-out where it fails itself."""
    return "not tried" if code == FAILED else status_by_exit_code[code]


def _cheap_tests_first() -> None:
    """Sort the tests of each function, since the first one that fails ends a mutant, and leave out what costs most."""
    statistics: Any = state()
    for name, tests in statistics.tests_by_mangled_function_name.items():
        cheap = [test for test in tests if f"test_{SLOW}.py" not in test or f".{SLOW}." in name]
        statistics.tests_by_mangled_function_name[name] = sorted(cheap, key=statistics.duration_by_test.__getitem__)


def _diff(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


if __name__ == "__main__":
    drive(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
