import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tests.unit.class_folders import write
from training.configuration import compose, plain
from training.data import splits, transformed
from training.data.prepare import prepare
from training.data.recipe import Recipe
from training.data.records import DatasetError
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset
from training.run import run_key

SPEC = SplitSpec(validation=0.25)


def make(folder: Path, **changes: object) -> Path:
    raw = write(folder / "raw", 16, 2)
    prepare(Recipe(name="pets", reader="class_folders", raw=raw, image_size=16, **changes), folder / "pets")  # type: ignore[arg-type]
    return folder / "pets"


def ensure(folder: Path, spec: SplitSpec, number: int, *, seed: int = 0, processes: int = 1) -> str:
    text = io.StringIO()
    transformed.ensure(folder, spec, number, seed=seed, console=Console(file=text, width=200), processes=processes)
    return text.getvalue()


def test_each_training_image_gets_its_copies_and_their_lineage(tmp_path: Path) -> None:
    folder = make(tmp_path)
    ensure(folder, SPEC, 3)
    dataset = PreparedDataset.open(folder)
    split = dataset.split(SPEC)
    assert dataset.transformed_images.shape == (3 * len(split.train), 3, 16, 16)
    assert split.transformed.tolist() == list(range(3 * len(split.train)))
    assert dataset.transformed_sources.tolist() == np.repeat(split.train, 3).tolist()
    assert dataset.transformed_labels.tolist() == dataset.labels[dataset.transformed_sources].tolist()
    with open(folder / "transformed" / "lineage.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["source"] for line in lines] == [dataset.record(row).id for row in dataset.transformed_sources]
    assert [int(line["copy"]) for line in lines[:4]] == [0, 1, 2, 0]
    assert len({line["angle"] for line in lines}) == len(lines)
    assert all(-15 <= float(line["angle"]) <= 15 and 0.8 <= float(line["contrast"]) <= 1.2 for line in lines)
    # A copy differs from its source, but is nearer to it than to another image.
    sources = dataset.images[dataset.transformed_sources].astype(float)
    copies = dataset.transformed_images.astype(float)
    own, other = (np.abs(copies - images).mean((1, 2, 3)) for images in (sources, np.roll(sources, 3, axis=0)))
    assert own.min() > 1 and own.mean() < 0.8 * other.mean()
    with Image.open(folder / "transformed" / "contact_sheet.png") as sheet:
        assert sheet.size == (4 * 16, 8 * 16)
        corner = np.asarray(sheet)[:16, :16].transpose(2, 0, 1)
    assert np.array_equal(corner, dataset.images[split.train[0]])


def test_a_run_without_copies_is_not_the_same_as_one_with_them(tmp_path: Path) -> None:
    folder = make(tmp_path)
    settings = plain(compose(["dataset=class_folders"]))
    keys = []
    for number in (0, 1, 2, 0):
        ensure(folder, SPEC, number)
        keys.append(run_key(settings, PreparedDataset.open(folder)))
    assert keys[0] == keys[3] and len(set(keys)) == 3


def test_copies_of_before_the_split_changed_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path)
    keys = []
    for number in (splits.FORMAT, splits.FORMAT, 99):
        monkeypatch.setattr(splits, "FORMAT", number)
        ensure(folder, SPEC, 1)
        keys.append(PreparedDataset.open(folder).transformed_key)
    assert keys[0] == keys[1] != keys[2]


def test_copies_of_another_splits_validation_do_not_train(tmp_path: Path) -> None:
    folder = make(tmp_path)
    ensure(folder, SPEC, 2)
    dataset, other = PreparedDataset.open(folder), SplitSpec(validation=0.25, seed=9)
    dealt = dataset.split(other)
    sources = set(dataset.transformed_sources[dealt.transformed].tolist())
    assert sources < set(dealt.train.tolist()) and not sources & set(dealt.validation.tolist())
    assert sources == set(dealt.train.tolist()) & set(dataset.split(SPEC).train.tolist())


def test_they_depend_on_seed_split_and_number_but_not_on_processes(tmp_path: Path) -> None:
    folder = make(tmp_path, colour="grey")

    def pixels() -> bytes:
        return (folder / "transformed" / "images.npy").read_bytes()

    ensure(folder, SPEC, 2, processes=1)
    first = pixels()
    assert ensure(folder, SPEC, 2, processes=2) == ""  # up to date
    assert "removing the transformed copies" in ensure(folder, SPEC, 0)
    assert not (folder / "transformed").exists()
    ensure(folder, SPEC, 2, processes=2)
    assert pixels() == first
    assert "72 transformed copies" in ensure(folder, SPEC, 2, seed=5) and pixels() != first
    assert "108 transformed copies" in ensure(folder, SPEC, 3)
    assert ensure(folder, SplitSpec(validation=0.25, seed=1), 3) != ""


def test_parameters_are_what_was_done() -> None:
    batch = torch.full((4, 3, 8, 8), 100, dtype=torch.uint8)
    copies, parameters = transformed.transform(batch, seed=3)
    values = dict(zip(transformed.PARAMETERS, parameters.T, strict=True))
    # On one even grey, only gamma and brightness show.
    expected = (100 / 255) ** values["gamma"] + values["brightness"] - 1
    assert torch.allclose(copies[:, 0, 4, 4].double() / 255, expected, atol=1 / 255)
    assert (copies == copies[:, :1, :1, :1]).all()


def test_grey_images_have_no_hue() -> None:
    copies, parameters = transformed.transform(torch.zeros((2, 1, 8, 8), dtype=torch.uint8), seed=0)
    assert copies.shape == (2, 1, 8, 8)
    names = [name for name, value in zip(transformed.PARAMETERS, parameters[0], strict=True) if value.isnan()]
    assert names == ["hue", "saturation"]


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    transformed.transform(torch.zeros((2, 3, 8, 8), dtype=torch.uint8), seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_an_encoded_set_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path, store="encoded")
    with pytest.raises(DatasetError, match=r"augment=1.*set augment=0, or dataset\.store=decoded"):
        ensure(folder, SPEC, 1)
