"""The benchmark of few images a class, on a tinted store: its rows, and the table of them."""

import json
from pathlib import Path

import pytest

from benchmarks import few_images
from benchmarks.pages import training_tables
from tests.unit.tinted_store import TINY, tinted_store


def test_each_number_of_images_is_pooled_over_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tinted_store(tmp_path))
    monkeypatch.setitem(few_images.KINDS, "tiny", (*TINY[1:], "trainer.epochs=1"))
    monkeypatch.setattr(few_images, "_store", lambda *_: "tinted")
    rows = few_images.measure("class_folders", "tiny", [2, 4], 2)
    assert [row["images_per_class"] for row in rows] == [2, 4]
    for number, row in zip((2, 4), rows, strict=True):
        run = Path("runs") / f"class_folders-tiny-{number}"
        trained = [json.loads((run / f"fold-{fold}/train.json").read_text())["images"] for fold in range(2)]
        assert [images["train"] for images in trained] == [number * 3] * 2
        assert row["test_images"] == 24  # two fifths of 60
        assert not (run / "fold-2").exists()


def test_the_table_has_a_column_for_each_number() -> None:
    row = {"test_images": 240, "top_1": {"value": 0.8, "low": 0.7, "high": 0.9}}
    sections = {
        "moths head": {"rows": [{**row, "images_per_class": 5}, {**row, "images_per_class": 10}]},
        "moths scratch": {"rows": [{**row, "images_per_class": 10}]},
    }
    table = training_tables.few_images.__wrapped__({"sections": sections})  # type: ignore[attr-defined]
    head, _, first, second = table.splitlines()
    assert "at most 5 a class | at most 10 a class" in head
    assert first.startswith("| moths head, 240 test images | **80.00 %**") and "ot measured.* | **80.00 %**" in second
