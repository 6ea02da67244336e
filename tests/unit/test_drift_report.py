"""The report on drift: its verdict on folders and logs of drawn images, when drift began, and the page."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageFilter

from handlers.classifier import Classifier
from handlers.observation import log as worker_log
from handlers.observation.log import Log
from handlers.settings import Settings
from monitoring.drift import course, distributions, moved, report, sample
from monitoring.drift.report import Report
from monitoring.drift.verdict import Images
from pipeline import drift
from serving import archive
from tests.unit.page_reader import PageReader, picture
from tests.unit.tinted_store import SIDE, TINY, tinted_store
from training.configuration import compose
from training.train import train

ROOT = Path(__file__).parents[2]
NAME = "watched"
SETTINGS = (*TINY, f"name={NAME}", "split.validation=0.5")
START, STEP = 1_800_000_000.0, 60.0  # seconds: of the first image of a log, and between two
installed = pytest.mark.skipif(
    importlib.util.find_spec("evidently") is None, reason=f"Evidently is missing: {distributions.INSTALL}"
)


def tinted(count: int, seed: int, *, shares: Sequence[float] = (1, 1, 1), blurred: bool = False) -> list[bytes]:
    """Return images as those of the prepared data set, with these shares of the classes."""
    random = np.random.default_rng(seed)
    encoded = []
    for channel in random.choice(3, count, p=np.array(shares) / sum(shares)):
        pixels = random.integers(0, 160, (SIDE, SIDE, 3), dtype=np.uint8)
        pixels[..., channel] += 80
        if blurred:
            pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1)))
        # As the prepared images were encoded: other settings are drift too.
        encoded.append(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=95))
    return encoded


def save(folder: Path, images: Sequence[bytes]) -> str:
    """Write images to a new folder, and return its name."""
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number:04d}.jpg").write_bytes(image)
    return str(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with an archive of a trained network, whose reference has 120 images."""
    root = tinted_store(tmp_path_factory.mktemp("project"), images=80)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run = root / train(compose(SETTINGS), lambda _: None)
        archive.build(NAME, "1.0", run=run, store=root / "model_store", rehearse=False)
    return root


@pytest.fixture
def home(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="module")
def classifier(root: Path) -> Classifier:
    classifier = Classifier(root / "runs" / NAME / "model.pt")
    classifier.observes = True
    return classifier


def write_log(
    folder: Path, classifier: Classifier, images: Sequence[bytes], version: str = "1.0", **settings: Any
) -> Path:
    """Log the answers to images, one a minute, as a worker does; return the folder of the model."""
    clock = iter(START + STEP * np.arange(len(images)))
    log = Log(folder, NAME, version, Settings(log=1, **settings), lambda reason: pytest.fail(reason))
    for number, (answer, image) in enumerate(zip(classifier.classify(images), images, strict=True)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker_log, "time", types.SimpleNamespace(time=lambda: float(next(clock))))
            log.add(f"id-{number}", [answer], [image], None)
    log.close()
    return folder / NAME


def report_on(raw: str | Path) -> Report:
    archive, reference = report.archive_of(NAME, None)
    whole, is_log = report.sample_of(str(raw), archive, len(reference.scale))
    return report.build(archive, reference, whole, is_log)


def test_unchanged_images_are_like_those_of_validation(home: Path, tmp_path: Path) -> None:
    result = report_on(save(tmp_path / "same", tinted(120, 1)))
    assert result.verdict is not None and result.verdict.kind == "none"
    assert result.sentence == "The 120 images are like those of validation." and not result.history


def test_blurred_images_are_an_input_shift_that_names_the_sharpness(home: Path, tmp_path: Path) -> None:
    result = report_on(save(tmp_path / "blurred", tinted(120, 2, blurred=True)))
    assert result.verdict is not None and result.verdict.kind == "input shift"
    assert "sharpness" in result.verdict.exceeded
    assert re.match(r"The 120 images differ from those of validation \(MMD² .*sharpness", result.sentence)


def test_one_class_ten_times_as_frequent_is_a_label_shift(home: Path, tmp_path: Path) -> None:
    result = report_on(save(tmp_path / "red", tinted(150, 3, shares=(10, 1, 1))))
    assert result.verdict is not None and result.verdict.kind == "label shift"
    assert result.sentence.startswith("The shares of the classes have changed in the 150 images (MMD² ")


def test_a_log_says_when_drift_began(home: Path, classifier: Classifier, tmp_path: Path) -> None:
    images = [*tinted(350, 4), *tinted(200, 5, blurred=True)]
    folder = write_log(tmp_path, classifier, images)
    result = report_on(folder)
    assert result.verdict is not None and result.verdict.kind == "input shift" and len(result.sample) == 500
    assert [window.alarms for window in result.windows] == [False, False, False, True, True]
    assert result.onset is result.windows[3] and result.onset.first.timestamp() == START + 350 * STEP
    assert result.sentence.startswith("The last 500 images differ")
    assert result.history.startswith(f"It began in the window from {result.onset.first:{report.TIME}} to ")
    assert all(row.name == f"id-{number}" for number, row in enumerate(result.sample.rows, start=50))


def test_drift_that_has_just_begun_is_seen_in_the_smaller_window(
    home: Path, classifier: Classifier, tmp_path: Path
) -> None:
    faint = [*tinted(460, 6), *tinted(40, 7, blurred=True)]
    result = report_on(write_log(tmp_path, classifier, faint))
    assert result.onset is result.windows[-1]
    assert result.verdict is not None and result.verdict.kind != "none"


def test_drift_that_has_ended_is_not_said_to_persist(home: Path, classifier: Classifier, tmp_path: Path) -> None:
    images = [*tinted(100, 8), *tinted(100, 9, blurred=True), *tinted(500, 10)]
    result = report_on(write_log(tmp_path, classifier, images))
    assert result.sentence == "The last 500 images are like those of validation." and result.onset is None
    assert result.history.startswith("1 of 7 windows of 100 images differ, the last of them until 2027-")


@pytest.mark.parametrize(
    ("alarms", "place"),
    [("", None), ("0", None), ("1", 0), ("0011", 2), ("0110", None), ("1011", 0), ("1100101", 4), ("10011", 3)],
)
def test_the_alarm_persists_from_its_first_window(alarms: str, place: int | None) -> None:
    assert course.onset([alarm == "1" for alarm in alarms]) == place


def test_the_images_that_moved_come_first(home: Path, tmp_path: Path) -> None:
    blurred = tinted(30, 11, blurred=True)
    result = report_on(save(tmp_path / "mixed", [*tinted(100, 12), *blurred]))
    _, reference = report.archive_of(NAME, None)
    places = moved.order(reference, result.sample.images, 20)
    assert (places >= 100).all()
    assert any(line.startswith("sharpness 0.") for line in moved.unusual(reference, result.sample.images)[places[0]])


def test_the_witness_is_the_difference_of_the_means_of_mmd(home: Path, tmp_path: Path) -> None:
    result = report_on(save(tmp_path / "some", tinted(100, 13, blurred=True)))
    _, reference = report.archive_of(NAME, None)
    images = result.sample.images
    mixed = moved.witness(reference, images)
    validation = dataclasses.replace(images, embeddings=Images.of(reference).embeddings)
    # Of the validation images with themselves as the sample, it is nothing.
    assert np.abs(moved.witness(reference, validation)).max() < 1e-6
    assert mixed.mean() > 0


def test_few_images_have_a_page_and_no_verdict(home: Path, tmp_path: Path) -> None:
    result = report_on(save(tmp_path / "few", tinted(99, 14, blurred=True)))
    assert result.verdict is None
    assert result.sentence.startswith("No verdict: there are 99 images, and a test needs 100.")


def test_a_large_folder_is_drawn_from_and_says_so(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "many", tinted(30, 15))
    (tmp_path / "many" / "0000.jpg").write_bytes(b"\xff\xd8\xff broken")
    monkeypatch.setattr(sample, "MOST_FILES", 29)
    results = [report_on(folder) for _ in range(2)]
    assert results[0].source.startswith("2") and ", drawn from 30" in results[0].source
    assert [row.name for row in results[0].sample.rows] == [row.name for row in results[1].sample.rows]


def test_rows_of_other_versions_and_damaged_ones_do_not_count(
    home: Path, classifier: Classifier, tmp_path: Path
) -> None:
    folder = write_log(tmp_path, classifier, tinted(20, 16))
    write_log(tmp_path, classifier, tinted(5, 17), version="2.0")
    (segment,) = folder.glob("*.jsonl")
    lines = segment.read_text().splitlines()
    row = json.loads(lines[0])
    for damage in ({"embedding": [1.0]}, {"sharpness": None}, {"label": "no class"}, {"time": "yesterday"}):
        lines.append(json.dumps(row | damage))
    segment.write_text("\n".join([*lines, lines[0][:40]]) + "\n")
    assert len(report_on(folder).sample) == 20


def test_only_the_newest_images_of_a_long_log_are_read(
    home: Path, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "MOST_LOGGED", 150)
    folder = write_log(tmp_path, classifier, tinted(230, 18))
    (segment,) = folder.glob("*.jsonl")
    segment.write_text("".join(sorted(segment.read_text().splitlines(keepends=True), reverse=True)))
    result = report_on(folder)
    assert [row.name for row in result.sample.rows] == [f"id-{number}" for number in range(80, 230)]
    assert len(result.windows) == 1


def test_a_folder_and_a_log_give_the_same_verdict(home: Path, classifier: Classifier, tmp_path: Path) -> None:
    images = tinted(110, 19, blurred=True)
    folder, logged = report_on(save(tmp_path / "both", images)), report_on(write_log(tmp_path, classifier, images))
    assert folder.verdict is not None and logged.verdict is not None
    assert folder.verdict.embedding.value == pytest.approx(logged.verdict.embedding.value, rel=1e-2)
    assert folder.verdict.exceeded == logged.verdict.exceeded


def write_wrong(home: Path, classifier: Classifier, tmp_path: Path) -> None:
    """Write the logs and archives of the errors."""
    write_log(tmp_path / "old", classifier, tinted(3, 20), version="0.9")
    bare = write_log(tmp_path / "bare", classifier, tinted(3, 20))
    (segment,) = bare.glob("*.jsonl")
    rows = [json.loads(line) | {"embedding": []} for line in segment.read_text().splitlines()]
    segment.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "nothing").mkdir()
    (tmp_path / "file.txt").write_text("x")


@installed
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("", f"has no predictions: build a version with make archive NAME={NAME}"),
        ("gone", "gone does not exist: name a folder of images, or that of a log such as logs/predictions/"),
        ("file.txt", "file.txt is a file: name a folder of images"),
        ("nothing", "holds no image among its 0 files"),
        (f"old/{NAME}", "has no image of version 1.0: choose VERSION=0.9 (3)"),
        (f"bare/{NAME}", "the 3 images of version 1.0 in"),
    ],
)
def test_a_wrong_source_is_one_line(
    home: Path, classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: str, message: str
) -> None:
    write_wrong(home, classifier, tmp_path)
    page = tmp_path / "page.html"
    assert drift.main([NAME, f"--raw={tmp_path / raw if raw else ''}", f"--out={page}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not page.exists()


@installed
def test_an_archive_without_a_reference_is_one_line(
    home: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    for path in (root / "runs" / NAME).iterdir():
        if path.is_file() and path.name != "drift.bin":
            (tmp_path / "run" / path.name).write_bytes(path.read_bytes())
    archive.build(NAME, "1.0", run=tmp_path / "run", store=tmp_path / "model_store", rehearse=False)
    monkeypatch.chdir(tmp_path)
    for name, message in (
        (NAME, "has no validation images to compare with: train with 100"),
        ("none", "no archive of"),
    ):
        assert drift.main([name]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_without_evidently_the_remedy_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert drift.main([NAME]) == 1
    line = f"error: the report needs Evidently: install it with {distributions.INSTALL}\n"
    assert capsys.readouterr().err == line


def test_only_one_module_imports_evidently() -> None:
    paths = [
        path for folder in ("handlers", "monitoring", "pipeline", "serving") for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    users = [path.name for path in paths if re.search(r"^\s*(import|from) evidently", path.read_text(), re.MULTILINE)]
    assert users == ["distributions.py"]


class Frame(HTMLParser):
    """Keeps the page in the frame of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.page = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "iframe":
            self.page = dict(attrs)["srcdoc"] or ""


# A process that may not open a connection: Evidently has a telemetry.
OFFLINE = """
import json, socket, sys
def refuse(*arguments): raise AssertionError("a connection was opened")
socket.socket.connect = socket.getaddrinfo = refuse
from pipeline import drift
sys.exit(any([drift.main(arguments) for arguments in json.loads(sys.argv[1])]))
"""


@installed
def test_the_page_is_one_file_that_loads_nothing(home: Path, classifier: Classifier, tmp_path: Path) -> None:
    images = [*tinted(100, 21), *tinted(200, 22, blurred=True)]
    folder = write_log(tmp_path, classifier, images, log_images=True)
    few = save(tmp_path / "few", tinted(20, 23, blurred=True))
    pages = tmp_path / "log.html", tmp_path / "few.html"
    runs = [[NAME, f"--raw={raw}", f"--out={page}"] for raw, page in zip((folder, few), pages, strict=True)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", OFFLINE, json.dumps(runs)]
    done = subprocess.run(command, cwd=home, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    sentence, history, path, of_few, path_of_few = done.stdout.splitlines()
    assert sentence.startswith("The last 300 images differ") and history.startswith("It began in the window from 2027-")
    assert path.startswith(str(pages[0])) and path_of_few.startswith(str(pages[1]))
    reader = PageReader(pages[0])
    assert sentence in reader.text and history in reader.text
    loaded = [*reader.attributes("src"), *reader.attributes("href")]
    assert loaded and all(url.startswith(("data:", "#")) for url in loaded)
    (policy,) = [attributes["content"] for _, attributes in reader.elements if "http-equiv" in attributes]
    assert "default-src 'none'" in policy and "http" not in policy
    assert len(reader.pictures["moved"]) == drift.SHOWN and picture(reader.pictures["moved"][0]).size == (SIDE, SIDE)
    names = [row[0] for row in reader.rows["tests"]]
    assert "MMD² of the embeddings" in names and "Jensen-Shannon distance of sharpness" in names
    assert [row[2] for row in reader.rows["windows"][1:]] == ["input shift", "input shift", "none"]
    inner = Frame(pages[0].read_text()).page
    for column in (*distributions.NUMBERS, distributions.CLASS):
        assert f"Drift in column '{column}'" in inner
    assert of_few.startswith("No verdict: there are 20 images, and a test needs 100.")
    reader, inner = PageReader(pages[1]), Frame(pages[1].read_text()).page
    assert of_few in reader.text and "tests" not in reader.rows and len(reader.pictures["moved"]) == 20
    assert "Drift in column" not in inner and "sharpness" in inner


def test_no_label_ends_the_script_of_evidently(home: Path, tmp_path: Path) -> None:
    result = report_on(save(tmp_path / "odd", tinted(5, 24)))
    columns = distributions._columns(result.sample.images, ["</script>", "<b>", "<!--"])
    assert set(columns["class"]) <= {"< /script>", "< b>", "< !--"}
