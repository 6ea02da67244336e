"""What two archives differ in is said before they are swapped."""

import json
from pathlib import Path
from typing import Any

import pytest

from serving import archive
from serving.store.changes import changes
from serving.store.model_store import Archive
from tests.unit.archived_run import write_run, write_servable


def test_scores_are_said_as_evaluation_writes_them(tmp_path: Path) -> None:
    run = write_servable(tmp_path / "runs" / "small")
    (run / "evaluation").mkdir()

    def built(version: str, score: float | None) -> Archive:
        metrics = run / "evaluation" / "metrics.json"
        metrics.unlink(missing_ok=True)
        if score is not None:
            metrics.write_text(json.dumps({"top_1": {"value": score, "low": 0.5, "high": 1.0}}))
        return archive.build("small", version, run=run, store=tmp_path / "store", rehearse=False)

    first, second, third = built("1.0", 0.91), built("2.0", 0.925), built("3.0", None)
    assert changes(first, second) == ["test top-1: 91.00% -> 92.50%"]
    assert changes(second, third) == ["test top-1: 92.50% -> not evaluated"]
    assert changes(third, third) == []


SQUASHED = {"image_size": 32, "mean": [0.5, 0.25], "resize": "squash"}


@pytest.mark.parametrize(
    ("new", "lines"),
    [
        ({}, []),
        ({"classes": ["bee", "ant"]}, ["the classes are in another order"]),
        ({"classes": ["ant", "cat", "dog"]}, ["classes added: cat, dog", "classes removed: bee"]),
        ({"network": "large"}, ["network: small -> large"]),
        (
            {"preprocess": {"image_size": 64, "mean": [0.5, 1 / 3], "resize": "squash", "interpolation": "bicubic"}},
            [
                "preprocessing, image_size: 32 -> 64",
                "preprocessing, interpolation: None -> bicubic",
                "preprocessing, mean: 0.5, 0.25 -> 0.5, 0.3333",
            ],
        ),
    ],
)
def test_the_fields_of_the_specs_are_compared(new: dict[str, Any], lines: list[str], tmp_path: Path) -> None:
    old = {"classes": ["ant", "bee"], "network": "small", "preprocess": SQUASHED}
    archives = [
        archive.build("fingers", version, runs=write_run(tmp_path / version, **spec), store=tmp_path, rehearse=False)
        for version, spec in (("1.0", old), ("2.0", {**old, **new}))
    ]
    assert changes(*archives) == lines
