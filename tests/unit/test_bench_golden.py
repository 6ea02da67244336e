"""The count of broken copies of `handlers`: what is not refused, for whatever reason, is told."""

from pathlib import Path
from typing import Any

from tests.campaigns import golden
from tests.campaigns.golden import FAULTS, GATES, PRECISIONS, Case
from tests.campaigns.mutants import MUTANTS

REFUSED = "golden image 7.jpg reaches the network with other pixels"


def load(mutant: str, **changes: Any) -> dict[str, Any]:
    row = {"mutant": mutant, "run": "a", "precision": "fp32", "counts": True, "own": False}
    return {**row, "refused": REFUSED, "whole_refused": None, **changes}


def test_what_passes_is_counted_and_what_changes_nothing_is_not() -> None:
    gate = dict.fromkeys(GATES, REFUSED)
    found = {
        "loads": [load("black"), load("BGR", counts=False, refused=None)],
        "gates": [gate],
        "good": [{"run": "random/0", "refused": None}],
    }
    assert not any(golden.summary(found)[wrong] for wrong in FAULTS)
    found["loads"] += [load("nearest", refused=None), load("black", precision="bf16", whole_refused=REFUSED)]
    found["gates"] += [{**gate, "deploy": "it is too slow", "verify": None}]
    found["good"] += [{"run": "runs/a", "refused": "broken"}]
    counts = golden.summary(found)
    assert {wrong: counts[wrong] for wrong in FAULTS if counts[wrong]} == {
        "counted and not refused": 1,
        "whole copies refused": 1,
        "good archives refused": 1,
        "not refused by verify": 1,
        "not refused by deploy": 1,
    }


def test_each_mutant_meets_the_gates_where_it_counts() -> None:
    cases = {(run, each): Case(Path(run), each) for run in ("a", "b") for each in PRECISIONS}
    loads = [
        load(name, run=run, precision=each, counts=run == "b" or name != "BGR")
        for name in MUTANTS
        for run, each in cases
    ]
    chosen = golden.spread(loads, cases)
    assert [name for name, _ in chosen] == list(MUTANTS)
    assert {case.precision for _, case in chosen} == set(PRECISIONS)
    assert dict(chosen)["BGR"].run == Path("b")
