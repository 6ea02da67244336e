"""The benchmark of variants: what each kind is trained with, and what it is compared with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import variants
from handlers.run_folder import RUNS, RunFolder
from training import crossvalidate
from training.data.records import DatasetError, Record
from training.predictions import Predictions

RIGHT = {"first": "1110", "second": "0111", "other": "111"}


@pytest.fixture(autouse=True)
def _pooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, right in RIGHT.items():
        (RUNS / name).mkdir(parents=True)
        labels = np.array([mark == "0" for mark in right], np.int64)  # each answer is class 0
        probabilities = np.tile(np.array([0.8, 0.2], np.float32), (len(right), 1))
        order = range(len(right)) if name == "first" else reversed(range(len(right)))
        records = [Record(str(number), "test", None, f"{number}.jpg") for number in order]
        places = [int(record.id) for record in records]
        predictions = Predictions.of(probabilities, 1.0, labels[places], records, Path("raw"))
        predictions.save(RunFolder(RUNS / name).pooled_predictions)


def test_images_are_paired_whatever_their_order() -> None:
    row = variants.difference(RUNS / "first", RUNS / "second")
    assert (row["gains"], row["losses"], row["difference"]["value"]) == (1, 1, 0.0)
    with pytest.raises(DatasetError, match="have other images"):
        variants.difference(RUNS / "first", RUNS / "other")


def test_each_student_learns_from_the_same_fold_for_as_many_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: dict[str, Any] = {}

    def record(configs: Any, console: Any) -> dict[str, Any]:
        runs[configs[0].name] = configs
        for config in configs:
            (RUNS / config.name).mkdir(parents=True)
        return {}

    monkeypatch.setattr(crossvalidate, "run", record)
    monkeypatch.setattr(variants, "FOLDS", 2)
    for kind in ("original", "alone", "taught"):
        variants.cross_validate("moths", kind, 7, 2)
    original, alone, taught = runs.values()
    assert [config.teacher for config in (*original, *alone)] == [None] * 4
    assert [config.teacher for config in taught] == [config.name for config in original]
    assert [config.network.model for config in (original[0], taught[0])] == ["tf_efficientnet_lite0", "resnet18d"]
    assert alone[0].trainer == taught[0].trainer and taught[0].trainer.epochs == 7 != original[0].trainer.epochs
    assert alone[0].store == taught[0].store != original[0].store and alone[0].split == taught[0].split
