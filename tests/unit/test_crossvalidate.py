"""Cross-validation and the search for the fewest images, end to end on stripes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import data_efficiency
from handlers.spec import INT8
from tests.unit import stripes
from training import configuration, crossvalidate, evaluate, export
from training.data import prepare
from training.data.records import DatasetError
from training.predictions import Predictions
from training.train import train

SETTINGS = [setting for setting in stripes.SETTINGS if not setting.startswith("split.test")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a prepared data set named class_folders."""
    root = tmp_path_factory.mktemp("folds")
    stripes.draw(root / "raw", train=9, test=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert prepare.main([*stripes.SETTINGS, "raw=raw", "name=class_folders", "processes=1"]) == 0
    return root


def test_folds_pool_all_images_and_resume(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prepared)
    overrides = [*SETTINGS, "name=cv", "split.folds=2"]
    configs = crossvalidate.folds(overrides)
    document = crossvalidate.run(configs)
    folder = prepared / "runs/cv"
    together = Predictions.load(folder / "predictions.npz")
    assert document["images"] == len(set(together.ids.tolist())) == 52
    right = int((together.probabilities.argmax(axis=1) == together.labels).sum())
    assert document["top_1"]["value"] == right / 52
    assert sum(fold["images"] for fold in document["folds"]) == 52
    assert sum(fold["mistakes"] for fold in document["folds"]) == 52 - right == document["mistakes"]
    assert all(fold["train_seconds"] > 0 and fold["evaluate_seconds"] > 0 for fold in document["folds"])
    assert json.loads((folder / "crossvalidation.json").read_text()) == document
    int8 = document["int8"]
    assert int8["images"] == 52 and int8["why"].startswith("too few images to tell (52): it loses ")
    assert (
        int8["why"].endswith(" on 52 out-of-fold images") and int8["top1_lost"]["low"] < 0 < int8["top1_lost"]["high"]
    )

    # Stopped in the second fold: the first is left alone, and the answer is the same.
    times = [(folder / f"fold-{fold}/model.pt").stat().st_mtime_ns for fold in range(2)]
    (folder / "fold-1/train.json").unlink()
    again = crossvalidate.run(configs)
    assert (folder / "fold-0/model.pt").stat().st_mtime_ns == times[0]
    assert (folder / "fold-1/model.pt").stat().st_mtime_ns > times[1]
    assert again["top_1"] == document["top_1"]


def test_int8_is_compared_with_float32_on_the_test_images_of_a_fold(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prepared)
    (config, _) = crossvalidate.folds([*SETTINGS, "name=rounded", "split.folds=2"])
    run, console = train(config), Console(quiet=True)
    evaluate.run(run, console=console)
    file = run / "evaluation/predictions.npz"
    exact = Predictions.load(file)
    sure = dataclasses.replace(exact, labels=exact.probabilities.argmax(axis=1))
    sure.save(file)
    same = crossvalidate.compare_int8(run, console)
    assert same is not None and same["images"] == 28 and same["lost"] <= 2 and same["gained"] == 0
    dataclasses.replace(sure, probabilities=np.roll(exact.probabilities, 1, axis=1)).save(file)
    other = crossvalidate.compare_int8(run, console)
    assert other is not None and other["gained"] >= 24 and other["lost"] == 0
    (run / INT8).unlink()
    assert crossvalidate.compare_int8(run, console) is None


def test_int8_is_offered_on_the_images_of_all_folds_together() -> None:
    fold = {"images": 300, "lost": 0, "gained": 0}
    assert not export.judge_int8(fold)["offered"]
    assert crossvalidate.judge_int8_of_folds([fold, fold])["says"].endswith("on 600 out-of-fold images")
    assert crossvalidate.judge_int8_of_folds([fold, fold])["offered"]
    unknown = crossvalidate.judge_int8_of_folds([fold, None])
    assert unknown == {"offered": False, "why": "1 of 2 folds have no int8 network"}


def test_an_image_in_two_folds_is_refused(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prepared)
    configs = crossvalidate.folds([*SETTINGS, "name=twice", "split.folds=2"])
    one = Predictions(
        probabilities=np.full((1, 4), 0.25, dtype=np.float32),
        temperatures=np.ones(1),
        labels=np.array([1]),
        ids=np.array(["train/0R/1.png"]),
        paths=np.array(["train/0R/1.png"]),
        offsets=np.array([0]),
        lengths=np.array([-1]),
        raw=prepared / "raw",
    )
    for fold in range(2):
        (prepared / f"runs/twice/fold-{fold}/evaluation").mkdir(parents=True)
        one.save(prepared / f"runs/twice/fold-{fold}/evaluation/predictions.npz")
    with pytest.raises(DatasetError, match=r"train/0R/1\.png is in two folds"):
        crossvalidate.pool(configs, [{}, {}])


@pytest.mark.parametrize("override", ["split.fold=1", "split.test=given"])
def test_what_folds_decide_cannot_be_set(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert crossvalidate.main(["dataset=class_folders", "name=cv", override]) == 1
    assert f"leave {override.partition('=')[0]}= out" in capsys.readouterr().err


def test_a_data_set_that_is_not_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert crossvalidate.main(["dataset=petals", "name=cv", "split.folds=2"]) == 1


def test_the_fewest_images_of_a_target_that_all_reach(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prepared)
    config = configuration.compose([*stripes.SETTINGS, "name=small", "store=class_folders", "trainer.epochs=1"])
    settings = {"target": 0.0, "images": [2, 4], "widths": [2, 4]}
    console = Console(quiet=True)
    document = data_efficiency.run(config, settings, console)
    assert [(point["width"], point["images_per_class"]) for point in document["chosen"]] == [(2, 2)]
    chosen = document["chosen"][0]
    assert chosen["training_images"] == 8
    assert chosen["test"]["images"] == 16
    assert all(point["run"].startswith("w2-") for point in document["tried"])
    # A target that none reaches: every width is tried on all images, none is judged.
    document = data_efficiency.run(config, settings | {"target": 1.1}, console)
    assert document["chosen"] == []
    assert [point["width"] for point in document["tried"]] == [2, 4]
