"""Labels that come later: joined to logged answers, counted by version, exported as class folders."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from handlers.observation import segments
from handlers.observation.log import Log
from handlers.requests.labels import Labels
from handlers.settings import Settings
from monitoring import feedback
from monitoring.feedback import Accuracy
from serving.rollout import labels
from serving.store.model_store import Archive, ArchiveError
from tests.unit.raw_layouts import read_records
from training.scores import proportion

BIRDS = Path("logs/predictions/birds")


def image(colour: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def answer(label: str) -> Labels:
    return Labels({label: 0.75, "another": 0.25})


def write_log(version: str, requests: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Log requests, each an id and the answers to its images; the images of a version have colours from 0."""
    log = Log(Path("logs/predictions"), "birds", version, Settings(log=1, log_images=True), lambda reason: None)
    colour = 0
    for request_id, answers in requests:
        images = [image(colour + place) for place in range(len(answers))]
        log.add(request_id, [answer(label) for label in answers], images, None)
        colour += len(answers)
    log.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of a server that has logged two versions of birds, and has the archive of the second."""
    monkeypatch.chdir(tmp_path)
    write_log("1.0", [("a", ["wren"]), ("b", ["robin"]), ("pair", ["wren", "robin"])])
    write_log("1.1", [("c", ["wren"]), ("d", ["wren"])])

    def spec(archive: Archive) -> dict[str, Any]:
        if archive.version != "1.1":
            raise ArchiveError("no such archive")
        return {"classes": ["wren", "robin"]}

    monkeypatch.setattr(Archive, "spec", spec)
    return tmp_path


def run(table: str, *arguments: str) -> int:
    Path("labels.csv").write_text(table)
    return feedback.main(["birds", "labels.csv", *arguments])


def versions() -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((BIRDS / feedback.FIGURES).read_text())["versions"]
    return figures


def test_labels_give_the_accuracy_of_each_version(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("request_id,label\na,wren\nb,wren\nc,wren\nd,wren\n") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("birds 1.0: 1 of 2 labelled images right, 50.0% (")
    assert out[1:] == [
        "  wren answered as robin: 1",
        "birds 1.1: 2 of 2 labelled images right, 100.0% (34.2% to 100.0%)",
    ]
    assert versions()["1.0"]["confusion"] == [{"label": "wren", "answer": "robin", "images": 1}]
    assert versions()["1.1"]["accuracy"]["value"] == 1


@pytest.mark.parametrize(("right", "images"), [(0, 5), (5, 5), (1, 2), (913, 1000), (1, 1)])
def test_the_interval_is_that_of_an_evaluation(right: int, images: int) -> None:
    score, theirs = Accuracy(images, right, {}, {}), proportion(right, images)
    assert theirs is not None
    assert score.value == theirs.value
    assert score.interval == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_later_label_replaces_an_earlier_one_and_labels_outlive_the_log(home: Path) -> None:
    assert run("request_id,label\na,robin\nc,wren\n") == 0
    assert versions()["1.0"]["right"] == 0
    assert run("request_id,label\na,wren\n") == 0
    assert (versions()["1.0"]["right"], versions()["1.0"]["images"]) == (1, 1)
    segments.segments(BIRDS)[0].unlink()
    write_log("1.1", [("e", ["robin"])])
    assert run("request_id,label\ne,wren\n") == 0
    assert (versions()["1.0"]["images"], versions()["1.1"]["images"]) == (1, 2)
    assert len(labels.read(BIRDS)) == 3


def test_images_are_labelled_by_their_place_their_hash_or_their_file(home: Path) -> None:
    assert run("image,request_id,label\n1,pair,robin\n0,pair,wren\n,a,wren\n") == 0
    assert (versions()["1.0"]["images"], versions()["1.0"]["right"]) == (3, 3)
    Path("sent.png").write_bytes(image(1))  # of the first request b of 1.0, and of d
    assert run("path,label\nsent.png,wren\n") == 0
    assert (versions()["1.0"]["images"], versions()["1.1"]["right"]) == (4, 1)
    sha256 = next(row["sha256"] for row, _ in segments.read(BIRDS) if row["request_id"] == "c")
    assert run(f"sha256,label\n{sha256},robin\n") == 0
    assert versions()["1.1"]["images"] == 2


def test_a_line_is_joined_by_the_first_column_that_it_fills_in(home: Path) -> None:
    sha256 = next(row["sha256"] for row, _ in segments.read(BIRDS) if row["request_id"] == "d")
    assert run(f"request_id,sha256,label\nc,{'0' * 64},wren\n,{sha256},wren\n") == 0
    assert (versions()["1.0"]["images"], versions()["1.1"]["images"]) == (1, 2)


def test_labels_without_an_answer_or_a_class_are_named_and_not_counted(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("request_id,label\nnowhere,wren\npair,wren\nc,walrus\nd,wren\n") == 0
    out = capsys.readouterr().out
    assert "birds 1.1: 1 of 1 labelled images right" in out and "no class of birds 1.1: walrus" in out
    assert "1 labels have no logged answer (nowhere): the request is not in the sample" in out
    assert "1 labels are of requests with several images (pair): add a column image" in out
    assert versions()["1.1"]["unknown_labels"] == {"walrus": 1}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("id,label\na,wren\n", "needs a header with the columns label and one of request_id, sha256, path"),
        ("request_id\na\n", "needs a header"),
        ("", "needs a header"),
        ("request_id,label\na,\n", "line 2: request_id or label is empty"),
        ("request_id,label\na,wren\n,wren\n", "line 3: request_id or label is empty"),
        ("request_id,sha256,label\na,,wren\n,,wren\n", "line 3: request_id or sha256 or label is empty"),
        ("request_id,image,label\na,first,wren\n", "line 2: image must be a place in its request"),
        ("path,label\ngone.png,wren\n", "gone.png cannot be read: No such file"),
    ],
)
def test_a_wrong_table_is_one_line(home: Path, capsys: pytest.CaptureFixture[str], table: str, message: str) -> None:
    assert run(table) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (BIRDS / labels.FILE).exists()


def test_a_missing_table_or_log_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, table, message in (
        ("birds", "gone.csv", "gone.csv cannot be read"),
        ("moths", "x", "has no predictions"),
    ):
        assert feedback.main([name, table]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_labelled_images_are_class_folders(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("request_id,label\na,wren\nb,grey wren\nc,wren\n", "--export", "corrected") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 images in corrected: make up RAW=corrected NAME=<name>"
    files = {path.read_bytes(): (path.parent.name, path.suffix) for path in Path("corrected").rglob("*.png")}
    # Request c of 1.1 sent the image of request a.
    assert files == {image(0): ("wren", ".png"), image(1): ("grey wren", ".png")}
    dataset, records = read_records("class_folders", Path("corrected"))  # as make up reads it
    assert dataset.classes == ("grey wren", "wren") and len(records) == 2
    for table, target, message in (
        ("request_id,label\na,wren\n", "corrected", "corrected is not empty"),
        ("request_id,label\na,../wren\n", "further", "'../wren' cannot be a folder's name"),
    ):
        assert run(table, "--export", target) == 1
        assert message in capsys.readouterr().err
    for path in BIRDS.glob("*.images/*"):
        path.unlink()
    assert run("request_id,label\na,wren\n", "--export", "none") == 1
    assert "no labelled image is in the log" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_an_exported_image_has_the_suffix_of_its_format(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(image(0, kind))
    suffix = feedback._suffix(path)
    assert Image.registered_extensions()[suffix] == kind
