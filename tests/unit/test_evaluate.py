"""A tiny run, judged from its encoded bytes; every number is worked out again from the artifact and the files."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from handlers import golden
from handlers.classifier import Classifier
from tests.unit import stripes
from training import configuration, evaluate, scores, submission
from training.data import prepare, splits
from training.data.records import DatasetError
from training.data.store import PreparedDataset
from training.predictions import Predictions
from training.train import train

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a prepared data set and one run named tiny."""
    root = tmp_path_factory.mktemp("evaluate")
    stripes.draw(root / "raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("training.temperature.LEAST_IMAGES", 1)
        assert prepare.main([*stripes.SETTINGS, "raw=raw", "name=tiny", "processes=1"]) == 0
        train(configuration.compose([*stripes.SETTINGS, "name=tiny"]))
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of it for one test, as the current directory."""
    for name in ("raw", "data", "runs"):
        shutil.copytree(trained / name, tmp_path / name)
    document = tmp_path / "data/processed/tiny/dataset.json"
    document.write_text(json.dumps({**json.loads(document.read_text()), "raw": str(tmp_path / "raw")}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_everything_is_what_the_classifier_answers(root: Path) -> None:
    metrics = evaluate.run(Path("runs/tiny"))
    folder = root / "runs/tiny/evaluation"
    predictions = Predictions.load(folder / "predictions.npz")
    assert len(predictions.labels) == metrics["images"] == 24
    classifier = Classifier(root / "runs/tiny/model.pt", top_k=4)
    right = 0
    for row, path in enumerate(predictions.paths):
        true = stripes.CLASSES[predictions.labels[row]]
        assert str(path).split("/")[-2] == true
        assert predictions.lengths[row] == -1
        answer = classifier.classify([(predictions.raw / str(path)).read_bytes()])[0]
        assert isinstance(answer, dict)
        for name, probability in answer.items():
            assert predictions.probabilities[row, stripes.CLASSES.index(name)] == pytest.approx(probability, abs=1e-5)
        right += next(iter(answer)) == true
    assert metrics["top_1"]["value"] == right / 24
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert set(metrics["parts"]) == {"count", "hand"}
    assert list(metrics["parts"]["hand"]["per_class"]) == ["L", "R"]
    scores_only = json.loads((folder / "scores.json").read_text())
    assert scores_only["top 1"] == metrics["top_1"]["value"] and "top 1 of the count" in scores_only
    for name in ("confusion.png", "reliability.png", "mistakes.png"):
        assert (folder / name).stat().st_size > 1000


def test_the_calibration_error_is_that_with_the_temperature_and_the_unscaled_one_that_without(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = evaluate.run(Path("runs/tiny"))
    classifier = Classifier(root / "runs/tiny/model.pt")
    predictions = Predictions.load(root / "runs/tiny/evaluation/predictions.npz")
    assert metrics["temperature"] == classifier.spec.temperature != 1
    assert set(predictions.temperatures.tolist()) == {metrics["temperature"]}
    assert metrics["calibration_error"] == scores.plain(
        scores.calibration_estimate(predictions.probabilities, predictions.labels)
    )
    classifier.spec = dataclasses.replace(classifier.spec, temperature=1.0)
    images = [(predictions.raw / str(path)).read_bytes() for path in predictions.paths]
    unscaled = np.array(golden.answers(classifier, images))
    expected = scores.calibration_estimate(unscaled, predictions.labels)
    assert metrics["calibration_error_unscaled"]["value"] == pytest.approx(expected.value, abs=1e-4)
    assert metrics["calibration_error_unscaled"] != metrics["calibration_error"]
    assert evaluate.main(["name=tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("│")[1].strip() for line in lines if "calibration" in line] == [
        "calibration error",
        "calibration error unscaled",
    ]


def test_an_evaluation_of_an_older_release_has_a_temperature_of_1(root: Path) -> None:
    evaluate.run(Path("runs/tiny"))
    path = root / "runs/tiny/evaluation/predictions.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file if name != "temperatures"}
    np.savez(path, **arrays)
    assert Predictions.load(path).temperatures.tolist() == [1.0] * 24


def test_batches_do_not_change_the_answers(root: Path) -> None:
    evaluate.run(Path("runs/tiny"), batch=64)
    whole = Predictions.load(Path("runs/tiny/evaluation/predictions.npz"))
    shutil.rmtree("runs/tiny/evaluation")
    evaluate.run(Path("runs/tiny"), batch=5)
    parts = Predictions.load(Path("runs/tiny/evaluation/predictions.npz"))
    assert whole.probabilities == pytest.approx(parts.probabilities, abs=1e-5)
    assert whole.ids.tolist() == parts.ids.tolist()


def test_an_evaluation_that_is_up_to_date_needs_no_torch(root: Path) -> None:
    evaluate.run(Path("runs/tiny"))
    before = (root / "runs/tiny/evaluation/predictions.npz").stat().st_mtime_ns
    program = (
        "import sys; from training import evaluate; code = evaluate.main(['name=tiny']);"
        "sys.exit(code or 'torch' in sys.modules or 'sklearn' in sys.modules or 'matplotlib' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stderr
    assert (root / "runs/tiny/evaluation/predictions.npz").stat().st_mtime_ns == before
    # Another configuration is another evaluation.
    with open("runs/tiny/config.yaml", "a") as file:
        file.write("# changed\n")
    evaluate.run(Path("runs/tiny"))
    assert (root / "runs/tiny/evaluation/predictions.npz").stat().st_mtime_ns > before


def test_other_code_that_answers_is_another_evaluation(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(evaluate.HANDLERS, root / "handlers")
    monkeypatch.setattr(evaluate, "HANDLERS", root / "handlers")
    keys = [evaluate.run(Path("runs/tiny"))["key"]]
    written = root / "runs/tiny/evaluation/predictions.npz"
    before = written.stat().st_mtime_ns
    assert evaluate.run(Path("runs/tiny"))["key"] == keys[0] and written.stat().st_mtime_ns == before
    for name in ("images/decoding.py", "preprocessing.py", "another.py"):
        with open(root / "handlers" / name, "a") as file:
            file.write("# changed\n")
        keys.append(evaluate.run(Path("runs/tiny"))["key"])
        assert written.stat().st_mtime_ns > before
        before = written.stat().st_mtime_ns
    assert len(set(keys)) == 4


def test_unlabelled_images_are_not_judged(root: Path) -> None:
    path = root / "data/processed/tiny/labels.npy"
    labels = np.load(path)
    judged = evaluate.run(Path("runs/tiny"))["images"]
    given = np.flatnonzero(PreparedDataset.open("data/processed/tiny").on_test_side)
    labels[given[:3]] = -1
    np.save(path, labels)
    shutil.rmtree("runs/tiny/evaluation")
    assert evaluate.run(Path("runs/tiny"))["images"] == judged - 3
    labels[given] = -1
    np.save(path, labels)
    shutil.rmtree("runs/tiny/evaluation")
    with pytest.raises(DatasetError, match="no test image has a label"):
        evaluate.run(Path("runs/tiny"))


def test_a_changed_or_missing_image_is_named(root: Path) -> None:
    image = root / "raw/test/1L/3.png"
    image.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"1L/3\.png.*prepare the data set again"):
        evaluate.run(Path("runs/tiny"))
    image.unlink()
    with pytest.raises(DatasetError, match=r"1L/3\.png.*Put it back"):
        evaluate.run(Path("runs/tiny"))
    assert not (root / "runs/tiny/evaluation/metrics.json").exists()


def test_a_data_set_prepared_anew_is_not_judged(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = root / "data/processed/tiny/dataset.json"
    document.write_text(json.dumps({**json.loads(document.read_text()), "fingerprint": "another"}))
    for command in (evaluate, submission):
        assert command.main(["name=tiny"]) == 1
        assert "is not the data that runs/tiny/model.pt was trained on: train it again" in capsys.readouterr().err


def test_a_run_of_before_the_split_changed_is_not_judged(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "FORMAT", 99)
    for command in (evaluate, submission):
        assert command.main(["name=tiny"]) == 1
        assert "model.pt was trained by an older release, which split the images otherwise" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name=<run> is missing"),
        (["name=none"], "train first"),
        (["name=tiny", "bach=3"], "'bach' is not a setting"),
        (["name=tiny", "batch=many"], "batch=many"),
        (["name=tiny", "batch=0"], "at least 1"),
        (["name=tiny", "batch=["], "batch=["),
    ],
)
def test_wrong_settings_are_told_in_one_line(
    arguments: list[str], message: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error


def test_a_broken_artifact_is_told_in_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "runs/tiny/model.pt").write_bytes(b"nothing")
    assert evaluate.main(["name=tiny"]) == 1
    assert "model.pt" in capsys.readouterr().err
    (root / "runs/tiny/model.pt").unlink()
    assert evaluate.main(["name=tiny"]) == 1
    assert "train and export" in capsys.readouterr().err


def test_submission_answers_every_test_image_by_number(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submission.main(["name=tiny"]) == 0
    assert capsys.readouterr().out.strip() == "runs/tiny/submission.csv"
    with open("runs/tiny/submission.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    evaluate.run(Path("runs/tiny"))
    predictions = Predictions.load(Path("runs/tiny/evaluation/predictions.npz"))
    answers = dict(zip(predictions.ids.tolist(), predictions.probabilities.argmax(axis=1).tolist(), strict=True))
    assert {row["id"]: int(row["label"]) for row in rows} == answers
    assert len(rows) == 24
