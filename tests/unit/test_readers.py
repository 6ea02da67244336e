"""Every reader on its own layout in small, on what it has to refuse, and on the real folders where they are at hand."""

import collections
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.unit.raw_layouts import (
    LAYOUTS,
    NAMES,
    TRAIN_FILE,
    assert_refused,
    labels_of,
    petal,
    read_records,
    write_asl,
    write_files,
    write_fingers,
    write_moths,
    write_petals,
    write_places,
)
from training.data import tfrecord
from training.data.prepare import prepare
from training.data.readers import READERS, read
from training.data.recipe import Recipe
from training.data.records import DatasetError

# What every reader does


def test_every_reader_is_tested() -> None:
    assert set(LAYOUTS) == set(READERS)


@pytest.mark.parametrize("reader", READERS)
def test_records_are_lazy_unique_and_readable(reader: str, raw: Path) -> None:
    LAYOUTS[reader](raw)
    dataset = read(reader, raw)
    assert iter(dataset.records) is dataset.records, "records are a generator, not a list"
    records = list(dataset.records)
    assert len({record.id for record in records}) == len(records) > 2
    assert len(set(dataset.classes)) == len(dataset.classes)
    for record in records:
        data = record.read(raw)
        assert (
            data == b"\xff\xd8 of " + record.id.encode() if reader == "petals" else record.path.endswith(data.decode())
        )
    assert read(reader, raw).classes == dataset.classes
    assert list(read(reader, raw).records) == records


@pytest.mark.parametrize("reader", READERS)
def test_empty_folder_is_refused(reader: str, raw: Path) -> None:
    assert_refused(reader, raw, rf"{re.escape(str(raw))} is empty\. Put .*RAW=<folder>")


@pytest.mark.parametrize("reader", READERS)
def test_missing_folder_is_refused(reader: str, raw: Path) -> None:
    assert_refused(reader, raw / "gone", r"raw/gone cannot be read: .*RAW=<folder>")


@pytest.mark.parametrize("reader", READERS)
def test_foreign_tfrecords_are_refused(reader: str, raw: Path, real_data: Path | None) -> None:
    name = "flowers_validation_00000-of-00005.tfrecord"
    if real_data:
        raw = real_data / "foreign_tfrecords"
    else:
        foreign = tfrecord.example({"image/encoded": b"\xff\xd8", "image/class/label": 3})
        tfrecord.write(raw / name, [foreign])
        (raw / "labels.txt").write_text("0:daisy\n")
    expected = "keys are .*image/encoded.*Give the TFRecord files" if reader == "petals" else "not laid out.*|RAW="
    assert_refused(reader, raw, f"{name}.*{expected}")


@pytest.mark.parametrize("reader", READERS)
def test_another_data_sets_layout_is_refused(reader: str, raw: Path) -> None:
    (write_petals if reader != "petals" else write_places)(raw)
    assert_refused(reader, raw, re.escape(str(raw)))


@pytest.mark.parametrize("reader", READERS)
def test_an_unknown_option_names_the_nearest(reader: str, raw: Path) -> None:
    LAYOUTS[reader](raw)
    assert_refused(reader, raw, r"no 'image_per_class': did you mean 'images_per_class'", image_per_class=3)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("wrong", [0, -1, True, "3", 1.5])
def test_a_count_that_is_none_is_refused(reader: str, wrong: Any, raw: Path) -> None:
    LAYOUTS[reader](raw)
    assert_refused(reader, raw, "images_per_class is .*whole number", images_per_class=wrong)


@pytest.mark.parametrize("reader", READERS)
def test_images_per_class_limits_train_alone(reader: str, raw: Path) -> None:
    LAYOUTS[reader](raw)
    _, everything = read_records(reader, raw)
    _, few = read_records(reader, raw, images_per_class=1)
    assert labels_of(few, "test") == labels_of(everything, "test")
    counts = collections.Counter((record.label, Path(record.path).parent) for record in few if record.split == "train")
    assert set(counts.values()) == {1}
    assert {label for label, _ in counts} == set(labels_of(everything, "train"))


def test_an_unknown_reader_names_the_nearest(raw: Path) -> None:
    assert_refused("petal", raw, "is 'petal', and training/data/readers has no such reader: did you mean 'petals'")
    assert_refused("xyz", raw, "choose one of asl_alphabet, class_folders")


@pytest.mark.parametrize(
    ("reader", "name", "data"),
    [
        ("places365", "categories_places365.txt", b"/a/airfield 0\n/c/caf\xe9 1\n"),
        ("places365", "places365_train_standard.txt", b"/c/caf\xe9/1.jpg 0\n"),
        ("places365", "places365_val.txt", b"caf\xe9.jpg 0\n"),
        ("petals", "classes.txt", b"0\trose\n1\t\xe9glantine\n"),
        ("petals", "test_labels.csv", b"id,class\n\xe9,3\n"),
        ("petals", TRAIN_FILE, tfrecord.frame(tfrecord.example({"image": b"x", "class": 3, "id": b"\xe9"}))),
        ("petals", TRAIN_FILE, tfrecord.frame(petal("x", 3, cafe=b"").replace(b"cafe", b"caf\xe9"))),
    ],
    ids=["categories", "train list", "val list", "class names", "test labels", "id", "key"],
)
def test_what_is_not_utf_8_is_refused_by_name(reader: str, name: str, data: bytes, raw: Path) -> None:
    LAYOUTS[reader](raw)
    if name == TRAIN_FILE:
        data = (raw / name).read_bytes() + data
    (raw / name).write_bytes(data)
    store = raw.parent / "processed" / "store"
    message = r"(is not UTF-8.*|record 3 is not an encoded .*)(Save it|Copy or download|Give TFRecord files)"
    with pytest.raises(DatasetError, match=re.escape(str(raw / name)) + f".*{message}"):
        prepare(Recipe(name="store", reader=reader, raw=raw, image_size=8), store)
    assert list(store.parent.iterdir()) == [], "nothing half-written is left behind"


def test_options_may_come_from_a_hydra_config(raw: Path) -> None:
    write_moths(raw)
    options = OmegaConf.create({"species": ["IO MOTH", "LUNA MOTH"], "images_per_class": None})
    assert read("moths", raw, options).classes == ("IO MOTH", "LUNA MOTH")


# ASL alphabet


@pytest.mark.parametrize("nested", [True, False])
def test_asl_reads_both_depths(nested: bool, raw: Path) -> None:
    write_asl(raw)
    if not nested:
        for side in ("asl_alphabet_train", "asl_alphabet_test"):
            (raw / side / side).rename(raw / "inner")
            (raw / side).rmdir()
            (raw / "inner").rename(raw / side)
    dataset, records = read_records("asl_alphabet", raw)
    assert len(dataset.classes) == 29 and dataset.classes[-4:] == ("Z", "del", "nothing", "space")
    assert labels_of(records, "train") == ["A"] * 4 + ["B"] * 4 + ["space"] * 4
    assert labels_of(records, "test") == ["A", "space"]


def test_asl_groups_are_blocks_of_frames(raw: Path) -> None:
    write_asl(raw)
    _, records = read_records("asl_alphabet", raw)
    groups = {Path(record.path).stem: record.group for record in records}
    assert groups["A1"] == groups["A150"] == "A/0"
    assert groups["A151"] == "A/1" and groups["A3000"] == "A/19" and groups["B1"] == "B/0"
    _, records = read_records("asl_alphabet", raw, frames_per_block=3000)
    assert {record.group for record in records if record.split == "train"} == {"A/0", "B/0", "space/0"}


def test_images_per_class_are_spread_over_the_frames(raw: Path) -> None:
    write_asl(raw)
    _, records = read_records("asl_alphabet", raw, images_per_class=2)
    assert [Path(record.path).stem for record in records if record.label == "A"] == ["A1", "A151", "A_test"]


def test_asl_without_a_test_folder_and_with_an_unknown_sign(raw: Path) -> None:
    write_asl(raw)
    shutil.rmtree(raw / "asl_alphabet_test")
    write_files(raw, ["asl_alphabet_train/asl_alphabet_train/ß/ß1.jpg"])
    dataset, records = read_records("asl_alphabet", raw)
    assert records[-1].label == "ß" and "ß" not in dataset.classes
    assert labels_of(records, "test") == []


# Fingers


def test_fingers_labels_come_from_names(raw: Path) -> None:
    write_fingers(raw)
    write_files(raw, ["train/z_6L.png", "train/readme.txt"])
    dataset, records = read_records("fingers", raw)
    assert dataset.classes == ("0L", "0R", "1L", "1R", "2L", "2R", "3L", "3R", "4L", "4R", "5L", "5R")
    unknown = {record.path: record.label for record in records if record.label not in dataset.classes}
    assert unknown == {"train/z_6L.png": "6L", "train/readme.txt": "me"}
    assert labels_of(records, "test") == ["3L", "3R"]


def test_fingers_without_png_or_side_are_refused(raw: Path) -> None:
    write_fingers(raw)
    shutil.rmtree(raw / "test")
    assert_refused("fingers", raw, "not laid out as the fingers data set: it holds train/")
    write_files(raw, ["test/a_3L.bmp"])
    assert_refused("fingers", raw, r"raw/test holds no PNG file\. Put")


# Moths


def test_moths_keep_blanks_and_count_valid_as_train(raw: Path) -> None:
    write_moths(raw)
    dataset, records = read_records("moths", raw)
    assert dataset.classes == ("ATLAS MOTH", "IO MOTH", "LUNA MOTH")
    assert len(labels_of(records, "train")) == 12 and len(labels_of(records, "test")) == 6


@pytest.mark.parametrize("species", [["LUNA MOTH", "ATLAS MOTH"], 2])
def test_moths_take_a_subset(species: Any, raw: Path) -> None:
    write_moths(raw)
    dataset, records = read_records("moths", raw, species=species)
    assert dataset.classes == (("ATLAS MOTH", "LUNA MOTH") if isinstance(species, list) else ("ATLAS MOTH", "IO MOTH"))
    assert {record.label for record in records} == set(dataset.classes)


@pytest.mark.parametrize(
    ("species", "message"),
    [
        (["luna moht", "IO MOTH"], "'luna moht' is not in .*/train: did you mean 'LUNA MOTH'"),
        (["IO MOTH"], "leaves 1 of 3: choose at least two"),
        (4, "is 4, but .*/train has 3"),
    ],
)
def test_moths_refuse_a_wrong_subset(species: Any, message: str, raw: Path) -> None:
    write_moths(raw)
    assert_refused("moths", raw, message, species=species)


def test_a_species_that_train_lacks_is_left_to_prepare(raw: Path) -> None:
    write_moths(raw)
    shutil.rmtree(raw / "train/IO MOTH")
    dataset, records = read_records("moths", raw)
    assert "IO MOTH" not in dataset.classes and labels_of(records, "test").count("IO MOTH") == 2


# Real images, or toy ones in the same layout; those that are drawn are counted in test_generate


@pytest.mark.parametrize(
    ("reader", "classes", "train", "test"),
    [
        ("asl_alphabet", 29, 17_400, 28),
        ("fingers", 12, 3_600, 1_823),
        ("moths", 20, 1_100, 100),
        ("places365", 96, 6_912, 973),
        ("petals", 104, 700, 100),
    ],
)
def test_real_folders(reader: str, classes: int, train: int, test: int, raw: Path, real_data: Path | None) -> None:
    if real_data is None:
        LAYOUTS[reader](raw)
        dataset, records = read_records(reader, raw)
        assert records and len(dataset.classes) <= classes
        return
    raw = real_data / reader
    dataset, records = read_records(reader, raw)
    assert len(dataset.classes) == classes
    assert (len(labels_of(records, "train")), len(labels_of(records, "test"))) == (train, test)
    assert {record.label for record in records} <= set(dataset.classes)
    assert len({record.id for record in records}) == train + test
    magic = b"\x89PNG" if reader == "fingers" else b"\xff\xd8\xff"
    assert all(record.read(raw).startswith(magic) for record in records[:: len(records) // 50])
    if reader == "petals":
        assert all(record.read(raw).endswith(b"\xff\xd9") for record in records)
        assert dataset.classes == tuple(NAMES)
