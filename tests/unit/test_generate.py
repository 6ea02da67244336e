"""Generated data sets: their layout, that equal parameters give equal bytes, and that their classes can be learned."""

import collections
import csv
import hashlib
import importlib
import io
import itertools
import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from synthetic import fingers, petals, places365
from synthetic.__main__ import DATASETS, main
from synthetic.folder import Parameters, Task, build
from training.data import tfrecord
from training.data.records import DatasetError

SCALES: dict[str, dict[str, Any]] = {
    "asl_alphabet": {"classes": 29, "images_per_class": 2, "size": 48},
    "fingers": {"classes": 12, "images_per_class": 3, "size": 64},
    "moths": {"classes": 4, "images_per_class": 3, "size": 48},
    "petals": {"classes": 5, "images_per_class": 6, "size": 48},
    "places365": {"classes": 6, "images_per_class": 3, "size": 48},
}


def generate(dataset: str, raw: Path, seed: int = 0, workers: int = 1) -> Path:
    made = importlib.import_module(f"synthetic.{dataset}").generate
    assert made(raw, seed=seed, workers=workers, **SCALES[dataset])
    return raw


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return one small folder of each data set."""
    parent = tmp_path_factory.mktemp("raw")
    return {dataset: generate(dataset, parent / dataset) for dataset in DATASETS}


def paths(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"generated.json"}


def digests(folder: Path) -> dict[str, str]:
    return {path: hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in paths(folder)}


@pytest.mark.parametrize("dataset", DATASETS)
def test_equal_parameters_give_equal_bytes_whatever_the_workers(
    dataset: str, raw: dict[str, Path], tmp_path: Path
) -> None:
    again = generate(dataset, tmp_path / "again", workers=2 if dataset == "petals" else 1)
    assert digests(again) == digests(raw[dataset])


def test_work_shared_by_processes_gives_the_same_files(tmp_path: Path) -> None:
    for workers in (1, 2):
        fingers.generate(tmp_path / str(workers), images_per_class=7, size=32, workers=workers)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


@pytest.mark.parametrize("dataset", DATASETS)
def test_another_seed_gives_other_images(dataset: str, raw: dict[str, Path], tmp_path: Path) -> None:
    other = set(digests(generate(dataset, tmp_path / "other", seed=1)).values())
    same = other & set(digests(raw[dataset]).values())
    # Only lists of names may stay as they are.
    texts = {hashlib.sha256(path.read_bytes()).hexdigest() for path in raw[dataset].glob("*.txt")}
    assert same <= texts


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_reader_finds_every_image(dataset: str, raw: dict[str, Path]) -> None:
    read = importlib.import_module(f"training.data.readers.{dataset}").read
    options = {"size": 48} if dataset == "petals" else {}
    records = list(read(raw[dataset], options).records)
    counts = collections.Counter((record.split, record.label) for record in records)
    per_class = {split: {count for (side, _), count in counts.items() if side == split} for split in ("train", "test")}
    expected = {
        "asl_alphabet": ({2}, {1}),
        "fingers": ({3}, {1}),
        "moths": ({4}, {1}),  # valid counts as train
        "petals": ({7}, {1}),
        "places365": ({3}, {1}),
    }
    assert (per_class["train"], per_class["test"]) == expected[dataset]
    size = SCALES[dataset]["size"]
    for record in records[::7]:
        with Image.open(io.BytesIO(record.read(raw[dataset]))) as image:
            image.load()
            assert image.size == (size, size)
            assert (image.format, image.mode) == (("PNG", "L") if dataset == "fingers" else ("JPEG", "RGB"))
            assert "progression" not in image.info


def test_fingers_are_named_by_uuid_and_label(raw: dict[str, Path]) -> None:
    names = paths(raw["fingers"])
    assert all(re.fullmatch(r"(train|test)/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}_[0-5][LR]\.png", n) for n in names)
    assert len(names) == 12 * (3 + 1)


def test_asl_has_28_test_files_five_of_which_are_training_files(raw: dict[str, Path]) -> None:
    found = digests(raw["asl_alphabet"])
    test = {path for path in found if path.startswith("asl_alphabet_test/asl_alphabet_test/")}
    train = {path for path in found if re.fullmatch(r"(asl_alphabet_train/){2}(\w+)/\2[12]\.jpg", path)}
    assert len(test) == 28 and len(train) == 58 and len(found) == 86
    assert "asl_alphabet_test/asl_alphabet_test/nothing_test.jpg" in test
    assert sum(found[path] in {found[each] for each in train} for path in test) == 5


def test_neighbouring_asl_frames_resemble_each_other() -> None:
    from synthetic import asl_alphabet

    frames = [
        np.asarray(Image.open(io.BytesIO(asl_alphabet.image(0, 1, 0, number, 64))), np.float32) for number in range(40)
    ]
    near = np.mean([np.abs(a - b).mean() for a, b in itertools.pairwise(frames)])
    far = np.mean([np.abs(a - b).mean() for a, b in zip(frames, frames[20:], strict=False)])
    assert near < 0.5 * far


def test_moths_have_blanks_in_their_names_and_three_sides(raw: dict[str, Path]) -> None:
    names = paths(raw["moths"])
    assert "train/ARCIGERA FLOWER MOTH/003.jpg" in names
    assert {"valid/ARCIGERA FLOWER MOTH/1.jpg", "test/ARCIGERA FLOWER MOTH/1.jpg"} <= names


def test_places_lists_name_exactly_the_files(raw: dict[str, Path]) -> None:
    folder = raw["places365"]
    categories = [line.rsplit(" ", 1) for line in (folder / "categories_places365.txt").read_text().splitlines()]
    assert [int(index) for _, index in categories] == list(range(365))
    assert categories[91] == ["/c/church/outdoor", "91"]
    train = [line.split(" ") for line in (folder / "places365_train_standard.txt").read_text().splitlines()]
    val = [line.split(" ") for line in (folder / "places365_val.txt").read_text().splitlines()]
    assert all(path.startswith(f"{categories[int(index)][0]}/") for path, index in train)
    listed = {f"data_256_standard{path}" for path, _ in train} | {f"val_256/{path}" for path, _ in val}
    assert listed == {path for path in paths(folder) if path.endswith(".jpg")}
    assert len(places365.class_numbers(365)) == len(set(places365.class_numbers(365))) == 365


def crc32c(data: bytes) -> int:
    """Compute CRC-32C bit by bit, as its definition has it, to check what the library wrote."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_petals_are_sound_tfrecords_with_test_answers_beside(raw: dict[str, Path]) -> None:
    folder = raw["petals"]
    assert {path for path in paths(folder) if path.endswith(".tfrec")} == {
        "tfrecords-jpeg-48x48/train/00-48x48-30.tfrec",
        "tfrecords-jpeg-48x48/val/00-48x48-5.tfrec",
        "tfrecords-jpeg-48x48/test/00-48x48-5.tfrec",
    }
    data = (folder / "tfrecords-jpeg-48x48/val/00-48x48-5.tfrec").read_bytes()
    length, masked = struct.unpack("<QI", data[:12])
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    assert (rotated >> 17 | rotated << 15) & 0xFFFFFFFF == crc32c(data[:8])
    assert tfrecord.features(data[12 : 12 + length]).keys() == {"class", "id", "image"}

    test = [tfrecord.features(payload) for _, payload in tfrecord.read(next(folder.glob("*/test/*.tfrec")))]
    assert all(found.keys() == {"id", "image"} for found in test)
    with open(folder / "test_labels.csv", newline="") as file:
        answers = {row["id"]: int(row["class"]) for row in csv.DictReader(file)}
    assert {found["id"][0].decode() for found in test if isinstance(found["id"][0], bytes)} == answers.keys()
    assert sorted(answers.values()) == petals.class_numbers(5)
    names = (folder / "classes.txt").read_text().split("\n")
    assert len(names) == 105 and names[53] == "53\tsunflower" and names[87] == "87\tcyclamen "


def test_a_folder_with_the_same_parameters_is_left_alone_and_others_are_replaced(tmp_path: Path) -> None:
    out, scale = tmp_path / "out", {"images_per_class": 1, "classes": 2, "size": 32}
    assert fingers.generate(out, **scale)
    before = {path: (out / path).stat().st_mtime_ns for path in paths(out)}
    assert not fingers.generate(out, **scale)
    assert {path: (out / path).stat().st_mtime_ns for path in paths(out)} == before
    next(out.glob("train/*.png")).unlink()
    assert fingers.generate(out, **scale)
    assert paths(out) == before.keys()
    assert fingers.generate(out, seed=1, **scale)
    assert not paths(out) & before.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_was_not_generated_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(DatasetError, match=r"mine holds files that were not generated\. Name another folder"):
        fingers.generate(tmp_path / "mine", images_per_class=1)
    assert paths(tmp_path) == {"mine/photo.jpg"}

    fingers.generate(tmp_path / "out", images_per_class=1, classes=2, size=32)
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(DatasetError, match="beyond the generated ones"):
        fingers.generate(tmp_path / "out", images_per_class=2)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def broken() -> bytes:
    raise KeyboardInterrupt


def test_an_interrupted_run_leaves_no_folder_and_the_next_one_completes(tmp_path: Path) -> None:
    parameters = Parameters("broken", 0, 1, 1, 32)
    tasks = [Task("a/1.txt", str.encode, ("first",)), Task("a/2.txt", broken, ())]
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "out", parameters, tasks, 1)
    assert not (tmp_path / "out").exists()
    assert build(tmp_path / "out", parameters, tasks[:1], 1)
    assert paths(tmp_path / "out") == {"a/1.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_command_line_says_what_it_did_and_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["fingers", str(tmp_path / "out"), "--images-per-class", "1", "--classes", "2", "--size", "32"]
    assert main(line) == 0 and capsys.readouterr().out.endswith("generated\n")
    assert main(line) == 0 and capsys.readouterr().out.endswith("unchanged\n")
    assert json.loads((tmp_path / "out" / "generated.json").read_text())["seed"] == 0
    assert main([*line, "--seed", "-1"]) == 1
    assert capsys.readouterr().err.startswith("error: seed is -1. Choose 0 to")
    assert main(["moths", str(tmp_path / "moths"), "--classes", "51"]) == 1
    assert capsys.readouterr().err == "error: classes is 51. Choose 1 to 50.\n"
