"""Scores of two versions, side by side, and the way back to the better one."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.comparison import Comparison
from serving.store import model_store
from serving.store.live import Live, LiveModel
from serving.store.model_store import Archive

NEW = Archive("birds", "2.0", Path("birds-2.0.mar"))


def compared(root: Path, score: float | None, **more: Any) -> list[str]:
    """Return the lines for birds 1.0, which scored `score` and was live, and birds 2.0, which scored 0.9 on `f`."""
    store = root / model_store.FOLDER
    store.mkdir(exist_ok=True)
    metrics = None if score is None else {"top_1": {"value": score}}
    (store / "birds-1.0.json").write_text(json.dumps({"metrics": metrics, "dataset_fingerprint": "f", **more}))
    found = Comparison.of(root, "1.0", NEW, {"top_1": {"value": 0.9}, "fingerprint": "f"})
    assert found is not None
    return found.lines(root)


@pytest.mark.parametrize(
    ("kept", "back"),
    [("1.0", "make rollback NAME=birds"), ("0.5", "make deploy VERSION=1.0 NAME=birds")],
)
def test_a_lower_score_names_the_way_back(kept: str, back: str, tmp_path: Path) -> None:
    (tmp_path / model_store.FOLDER).mkdir()
    Live({"birds": LiveModel("2.0", kept)}).write(tmp_path)
    assert compared(tmp_path, 0.95) == [
        "test top-1: birds 1.0 95.0%, birds 2.0 90.0%",
        f"warning: 2.0 is live and scores lower than 1.0. Back: {back}",
    ]


def test_other_scores_warn_of_nothing(tmp_path: Path) -> None:
    assert compared(tmp_path, 0.9) == ["test top-1: birds 1.0 90.0%, birds 2.0 90.0%"]
    assert compared(tmp_path, None) == ["test top-1: birds 1.0 not evaluated, birds 2.0 90.0%"]
    assert compared(tmp_path, 0.85, dataset_fingerprint="g") == [
        "test top-1: birds 1.0 85.0%, birds 2.0 90.0% (the prepared images have changed between them)"
    ]


@pytest.mark.parametrize("before", [None, "2.0"])
def test_without_another_version_there_is_no_comparison(before: str | None, tmp_path: Path) -> None:
    assert Comparison.of(tmp_path, before, NEW, {}) is None
