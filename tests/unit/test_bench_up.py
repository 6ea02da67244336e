"""The benchmark of make up: which class is left out, and how answers before and after are compared."""

from pathlib import Path

import pytest

from benchmarks import up
from benchmarks.pages import training_tables
from handlers.atomic import write_json


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for side in ("train", "test"):
        for name in ("bee", "ant", "wasp"):
            (tmp_path / "raw" / side / name).mkdir(parents=True)
            (tmp_path / "raw" / side / name / "ant").touch()  # an image that is called as a class
    return tmp_path / "raw"


def test_the_folders_of_one_class_are_left_out_on_each_side(raw: Path, tmp_path: Path) -> None:
    assert up.classes(raw) == up.classes(raw / "train") == ["ant", "bee", "wasp"]
    up.copy_without(raw, "ant", tmp_path / "copy")
    assert up.classes(tmp_path / "copy") == ["bee", "wasp"]
    assert sorted(path.parent.name for path in (tmp_path / "copy").rglob("ant")) == ["bee", "bee", "wasp", "wasp"]


def test_only_images_that_both_answered_are_compared() -> None:
    before = {"1": ("bee", "bee"), "2": ("bee", "wasp"), "3": ("wasp", "wasp"), "gone": ("bee", "bee")}
    after = {"1": ("bee", "ant"), "2": ("bee", "bee"), "3": ("wasp", "wasp"), "new": ("ant", "bee")}
    counted = {"images": 3, "right_before": 2, "right_after": 2, "lost": 1, "gained": 1}
    assert up.compared(before, after) == counted


def test_the_table_says_whether_the_second_stage_was_deployed(tmp_path: Path) -> None:
    score = {"value": 0.9, "low": 0.8, "high": 0.95}
    turn = {"added_class": {"images": 5, "right": 4}}
    tuned = {"minutes": 4, "seconds": 300, "deployed": {"deploys": False}, "top_1": [score, score]}
    loss = {"value": 0.0, "low": -0.02, "high": 0.02}
    old = {"images": 95, "right_before": 90, "right_after": 90, "loss": loss}
    document = {
        "classes": 20,
        "first_answer_s": 38.2,
        "added_answer_s": 25.0,
        "old_classes": old,
        "turns": [turn, {**turn, "fine_tuning": tuned}],
    }
    write_json(tmp_path / "up.json", document)
    table = training_tables.up(tmp_path)
    assert "38 s" in table and "8 of 10 right" in table and "0.0 % (-2.0 to 2.0)" in table
    assert "| second stage of turn 2, MINUTES=4, from the command to the end | 5.0 min, not deployed" in table


def test_there_are_not_more_turns_than_classes(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        up.main([str(raw), "--turns", "4"])
    assert "--turns is 4" in capsys.readouterr().err
