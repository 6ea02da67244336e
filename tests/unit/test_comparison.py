"""Scores of two versions, side by side, and the way back to the better one."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.comparison import Comparison, difference
from serving.store import model_store
from serving.store.live import Live, LiveModel
from serving.store.model_store import Archive
from training.scores import plain, proportion

NEW = Archive("birds", "2.0", Path("birds-2.0.mar"))


def evaluated(right: int, images: int = 1000) -> dict[str, Any]:
    """Return the metrics of an evaluation with `right` right answers."""
    return {"top_1": plain(proportion(right, images))}


def compared(root: Path, right: int | None, right_after: int = 900, **more: Any) -> list[str]:
    """Return the lines for birds 1.0, which was live, and birds 2.0, both evaluated on the 1,000 images `f`."""
    store = root / model_store.FOLDER
    store.mkdir(exist_ok=True)
    metrics = None if right is None else evaluated(right)
    (store / "birds-1.0.json").write_text(json.dumps({"metrics": metrics, "dataset_fingerprint": "f", **more}))
    comparison = Comparison.of(root, "1.0", NEW, {**evaluated(right_after), "fingerprint": "f"})
    assert comparison is not None
    return comparison.lines(root)


@pytest.mark.parametrize(
    ("kept", "back"),
    [("1.0", "make rollback NAME=birds"), ("0.5", "make deploy VERSION=1.0 NAME=birds")],
)
def test_a_lower_score_names_the_way_back(kept: str, back: str, tmp_path: Path) -> None:
    (tmp_path / model_store.FOLDER).mkdir()
    Live({"birds": LiveModel("2.0", kept)}).write(tmp_path)
    assert compared(tmp_path, 950) == [
        "test top-1: birds 1.0 95.0%, birds 2.0 90.0%",
        f"warning: 2.0 is live and scores lower than 1.0. Back: {back}",
    ]


def with_classes(right: dict[str, int], images: int = 200) -> dict[str, Any]:
    """Return the metrics of an evaluation with so many right answers of each class."""
    classes = {name: {"images": images, "recall": plain(proportion(hits, images))} for name, hits in right.items()}
    return {**evaluated(sum(right.values()), images * len(right)), "per_class": classes}


@pytest.mark.parametrize(("crow_after", "warns"), [(190, False), (150, True)])
def test_of_an_added_class_the_other_classes_are_compared(crow_after: int, warns: bool, tmp_path: Path) -> None:
    Live({"birds": LiveModel("2.0", "1.0")}).write(tmp_path)
    store = tmp_path / model_store.FOLDER
    before = with_classes({"owl": 190, "crow": 192})
    (store / "birds-1.0.json").write_text(json.dumps({"metrics": before, "dataset_fingerprint": "f"}))
    after = with_classes({"owl": 190, "crow": crow_after, "swift": 20}) | {"fingerprint": "g"}
    comparison = Comparison.of(tmp_path, "1.0", NEW, after)
    assert comparison is not None and comparison.worse == warns
    score = f"test top-1 of the 2 classes of both: birds 1.0 95.5%, birds 2.0 {(190 + crow_after) / 400:.1%} (the prep"
    assert comparison.lines(tmp_path)[0].startswith(score)


def test_versions_without_a_common_class_are_not_compared(tmp_path: Path) -> None:
    store = tmp_path / model_store.FOLDER
    store.mkdir()
    before = {"metrics": with_classes({"owl": 190}), "dataset_fingerprint": "f"}
    (store / "birds-1.0.json").write_text(json.dumps(before))
    assert Comparison.of(tmp_path, "1.0", NEW, with_classes({"bee": 20}) | {"fingerprint": "g"}) is None


@pytest.mark.parametrize(("before", "after"), [(883, 882), (882, 883), (900, 900), (920, 900), (900, 920)])
def test_a_change_within_noise_is_no_clear_difference(before: int, after: int, tmp_path: Path) -> None:
    score, verdict = compared(tmp_path, before, after)
    assert score == f"test top-1: birds 1.0 {before / 1000:.1%}, birds 2.0 {after / 1000:.1%}"
    assert verdict.startswith("no clear difference: the test images allow a change of -")


def test_the_interval_of_no_clear_difference_is_in_points_of_the_new_version(tmp_path: Path) -> None:
    verdict = "no clear difference: the test images allow a change of -4.5 to +0.5 points"
    assert compared(tmp_path, 920, 900)[1] == verdict


def test_other_scores_warn_of_nothing(tmp_path: Path) -> None:
    assert compared(tmp_path, None) == ["test top-1: birds 1.0 not evaluated, birds 2.0 90.0%"]
    assert compared(tmp_path, 850) == ["test top-1: birds 1.0 85.0%, birds 2.0 90.0%"]
    assert compared(tmp_path, 850, dataset_fingerprint="g") == [
        "test top-1: birds 1.0 85.0%, birds 2.0 90.0% (the prepared images have changed between them)"
    ]


def test_the_difference_is_that_of_newcombe() -> None:
    """The first example of Newcombe's table II: 56 of 70 and 48 of 80, method 10."""
    first, second = plain(proportion(56, 70)), plain(proportion(48, 80))
    assert first is not None and second is not None
    assert difference(first, second) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("before", [None, "2.0"])
def test_without_another_version_there_is_no_comparison(before: str | None, tmp_path: Path) -> None:
    assert Comparison.of(tmp_path, before, NEW, {}) is None
