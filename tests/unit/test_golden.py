import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers import golden
from handlers.classifier import Classifier
from handlers.golden import Golden, GoldenError
from tests.unit.small_network import save_small
from tests.unit.test_classifier import png
from tests.unit.test_handler import Worker


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_small(tmp_path / "model.pt")


def kept(path: Path, **changes: Any) -> Path:
    """Write golden.json beside a model, with some of the second entry changed."""
    images = [png(seed) for seed in range(3)]
    rows = golden.answers(Classifier(path), images)
    made = [Golden(f"{n}.png", image, row) for n, (image, row) in enumerate(zip(images, rows, strict=True))]
    made[1] = dataclasses.replace(made[1], **changes)
    golden.write(made, path.with_name(golden.FILE))
    return path.with_name(golden.FILE)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_what_was_exported_is_answered_alike(path: Path, precision: str, tolerance: float) -> None:
    assert golden.check(Classifier(path, precision=precision), golden.read(kept(path))) <= tolerance


def test_another_answer_says_which_image_and_by_how_much(path: Path) -> None:
    file = kept(path, probabilities=(0.5, 0.25, 0.25))
    for precision in ("fp32", "bf16"):
        with pytest.raises(GoldenError, match=r"1\.png .* differs by 0\.\d+, allowed in (fp32|bf16) are"):
            golden.check(Classifier(path, precision=precision), golden.read(file))


def test_an_answer_that_is_no_number_is_not_allowed(path: Path) -> None:
    classifier = Classifier(path)
    classifier.engine.module = lambda batch: torch.full((len(batch), 3), torch.nan)  # type: ignore[assignment]
    with pytest.raises(GoldenError, match="differs by nan"):
        golden.check(classifier, golden.read(kept(path)))


def test_other_classes_and_unreadable_images_are_named(path: Path) -> None:
    with pytest.raises(GoldenError, match=r"1\.png has 2 classes, the network 3"):
        golden.check(Classifier(path), golden.read(kept(path, probabilities=(0.5, 0.5))))
    with pytest.raises(GoldenError, match="golden image 2 cannot be read"):
        golden.check(Classifier(path), golden.read(kept(path, image=b"no image")))


@pytest.mark.parametrize("damage", ["[{", "[{}]", "[1]", '[{"name": "a", "image": "?", "probabilities": []}]'])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    (tmp_path / golden.FILE).write_text(damage)
    with pytest.raises(GoldenError, match="build the archive again"):
        golden.read(tmp_path / golden.FILE)


def test_a_worker_does_not_load_what_answers_otherwise(path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        file = kept(path)
        Worker(path.parent)
        document = json.loads(file.read_text())
        document[2]["probabilities"] = [0.2, 0.3, 0.5]
        file.write_text(json.dumps(document))
        with pytest.raises(GoldenError, match=r"2\.png"):
            Worker(path.parent)
    finally:
        torch.set_num_threads(threads)
