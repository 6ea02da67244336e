"""Pictures are looked at by people; what a test can hold is which images they show, their size, and their ink."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import pictures


@pytest.mark.parametrize("classes", [2, 12, 29, 104])
def test_confusion_matrix_of_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    labels = np.arange(classes).repeat(3)
    answers = np.where(np.arange(len(labels)) % 10 == 0, (labels + 1) % classes, labels)
    names = [f"a class with a name {k}" for k in range(classes)]
    pictures.confusion_matrix(labels, answers, names, tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    # Room for every row: at least nine pixels of height for each, so that its name can be read.
    assert pixels.shape[0] >= 9 * classes
    # The diagonal is the only dark blue: as many right answers, as much ink, whatever the number of classes.
    dark = (pixels[..., 2] > pixels[..., 0] + 60) & (pixels[..., 0] < 60)
    assert dark.any(axis=1).sum() > pixels.shape[0] / 3


def test_absent_classes_are_left_out(tmp_path: Path) -> None:
    labels, names = np.array([3, 3, 70, 70]), [str(k) for k in range(104)]
    pictures.confusion_matrix(labels, labels, names, tmp_path / "few.png")
    pictures.confusion_matrix(np.arange(104), np.arange(104), names, tmp_path / "all.png")
    with Image.open(tmp_path / "few.png") as few, Image.open(tmp_path / "all.png") as whole:
        assert few.height < whole.height / 2


def test_the_same_answers_make_the_same_file(tmp_path: Path) -> None:
    confidences, right = np.linspace(0.2, 1, 50), np.arange(50) % 4 > 0
    for name in ("first.png", "second.png"):
        pictures.reliability(confidences, right, tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    pictures.reliability(confidences, ~right, tmp_path / "other.png")
    assert (tmp_path / "first.png").read_bytes() != (tmp_path / "other.png").read_bytes()


def test_the_surest_mistakes_come_first() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    rows, title = pictures.worst(probabilities, np.array([0, 1, 0, 1]), limit=2)
    assert rows.tolist() == [2, 3]
    assert "2 of 3" in title


def test_without_mistakes_the_least_sure_answers_are_shown() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    rows, title = pictures.worst(probabilities, np.array([0, 0, 1]), limit=2)
    assert rows.tolist() == [1, 2]
    assert title.startswith("no mistake on 3")


@pytest.mark.parametrize("channels", [1, 3])
def test_contact_sheet_shows_every_image(channels: int, tmp_path: Path) -> None:
    def sheet(count: int) -> float:
        images = [np.full((channels, 8, 8), 40, dtype=np.uint8)] * count
        path = tmp_path / f"{count}.png"
        pictures.contact_sheet(images, ["cat"] * count, ["dog"] * count, [0.9] * count, "mistakes", path)
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        return float((pixels == 40).all(axis=-1).sum())

    assert sheet(4) == pytest.approx(4 * sheet(1), rel=0.1)
    assert sheet(7) == pytest.approx(7 * sheet(1), rel=0.2)
