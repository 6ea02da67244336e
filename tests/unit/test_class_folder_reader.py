"""The reader of class folders: sides, classes, labels in file names, and folders that it refuses."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.unit.raw_layouts import assert_refused, labels_of, read_records, write_class_folders, write_files
from training.data.prepare import prepare
from training.data.readers import read
from training.data.recipe import Recipe, listing
from training.data.records import DatasetError


def test_class_folders_pass_over_hidden_ones_and_read_nested_ones(raw: Path) -> None:
    write_class_folders(raw)
    write_files(
        raw, ["dog/inner/deep/8.jpg", "dog/.ipynb_checkpoints/1.jpg", "cat/__MACOSX/._1.jpg", "__MACOSX/cat/._1.jpg"]
    )
    dataset, records = read_records("class_folders", raw)
    assert dataset.classes == ("cat", "dog")
    paths = ["cat/1.jpg", "cat/2.png", "dog/1.JPG", "dog/inner/9.jpg", "dog/inner/deep/8.jpg"]
    assert [record.path for record in records] == paths
    assert labels_of(records, "train") == ["cat", "cat", "dog", "dog", "dog"]
    assert len(read_records("class_folders", raw, images_per_class=2)[1]) == 4


def test_class_folders_keep_what_may_be_an_image_for_prepare_to_report(raw: Path) -> None:
    write_class_folders(raw)
    write_files(raw, ["cat/notes.txt", "cat/Thumbs.db"])
    assert "cat/notes.txt" in {record.path for record in read_records("class_folders", raw)[1]}
    assert "cat/Thumbs.db" not in {record.path for record in read_records("class_folders", raw)[1]}


@pytest.mark.parametrize(
    ("sides", "test_side"), [(("train", "test"), "test"), (("train", "val"), "val"), (("Train", "test", "val"), "test")]
)
def test_class_folders_with_sides(sides: tuple[str, ...], test_side: str, raw: Path) -> None:
    for side in sides:
        write_class_folders(raw / side)
    write_files(raw, [f"{test_side}/only here/1.jpg"])
    dataset, records = read_records("class_folders", raw)
    assert dataset.classes == ("cat", "dog")
    assert {record.path.split("/")[0] for record in records if record.split == "test"} == {test_side}
    assert labels_of(records, "test") == ["cat", "cat", "dog", "dog", "only here"]
    assert len(labels_of(records, "train")) == 4 * (len(sides) - 1)


@pytest.mark.parametrize(
    ("sides", "splits"),
    [
        (("seg_train/seg_train", "seg_test/seg_test"), ("train", "test")),
        (("training_set", "test_set"), ("train", "test")),
        (("TrainImages", "ValImages"), ("train", "test")),
        (("TRAIN", "Validation", "test1"), ("train", "train", "test")),
    ],
)
def test_class_folders_know_sides_by_other_names(sides: tuple[str, ...], splits: tuple[str, ...], raw: Path) -> None:
    for side in sides:
        write_class_folders(raw / side)
    write_files(raw, ["seg_pred/1.jpg", "__MACOSX/seg_train/._1.jpg", "images to test/1.jpg", "moths.csv"])
    dataset, records = read_records("class_folders", raw)
    assert dataset.classes == ("cat", "dog")
    assert {(record.path.split("/")[0], record.split) for record in records} == {
        (side.split("/")[0], split) for side, split in zip(sides, splits, strict=True)
    }
    assert [remark.split(" is ")[0] for remark in dataset.remarks] == ["images to test/", "seg_pred/"]


def test_unlabelled_test_images_are_not_read_and_val_judges_in_their_place(raw: Path) -> None:
    for side in ("train", "valid"):
        write_class_folders(raw / side)
    write_files(raw, ["test/1.jpg", "test/2.jpg"])
    dataset, records = read_records("class_folders", raw)
    assert {record.path.split("/")[0] for record in records if record.split == "test"} == {"valid"}
    assert dataset.remarks == ("test/ is not read: it holds no class folders of a train, validation or test side",)


@pytest.mark.parametrize("test", ["test", "test1", "testing"])
def test_flat_sides_are_refused_and_labelled_names_are_offered(test: str, raw: Path) -> None:
    write_files(raw / "train", ["1.jpg", "2.jpg"])
    write_files(raw / test, ["1.jpg"])
    assert_refused("class_folders", raw, r"train/ holds no folder for each class, but 1\.jpg .*RAW=<folder>$")
    shutil.rmtree(raw / "train")
    write_files(raw / "train", [f"{name}.{number}.jpg" for name in ("cat", "dog") for number in range(3)])
    assert_refused(
        "class_folders", raw, r"cat\.0\.jpg hold the class \(cat, dog\), read them .*reader_options\.labels=names"
    )
    dataset, records = read_records("class_folders", raw, labels="names")
    assert dataset.classes == ("cat", "dog")
    assert labels_of(records, "train") == ["cat"] * 3 + ["dog"] * 3 and labels_of(records, "test") == []
    write_files(raw / test, ["dog.7.jpg", "notes 3.txt"])
    assert labels_of(read_records("class_folders", raw, labels="names")[1], "test") == ["dog"]
    assert len(labels_of(read_records("class_folders", raw, labels="names", images_per_class=2)[1], "train")) == 4


def test_flat_images_without_sides_are_read_by_their_names(raw: Path) -> None:
    write_files(
        raw, ["american pug_10.jpg", "american pug_11.jpg", "Abyssinian_1.jpg", "Abyssinian (2).jpg", "unclear.jpg"]
    )
    dataset, records = read_records("class_folders", raw, labels="names")
    assert dataset.classes == ("Abyssinian", "american pug")
    assert (records[0].path, records[0].label) == ("unclear.jpg", None)
    (raw / "unclear.jpg").unlink()
    assert_refused("class_folders", raw, r"not laid out as class folders.*\(Abyssinian, american pug\).*labels=names")
    assert_refused("class_folders", raw, "only the class 'pug', a classifier needs at least two", labels="(pug)")
    hands = ["x_3L.png", "y_0R.png"]
    write_files(raw, hands)
    found = {record.path: record.label for record in read_records("class_folders", raw, labels=r"(\d[LR])$")[1]}
    assert {path: found[path] for path in hands} == {"x_3L.png": "3L", "y_0R.png": "0R"}


@pytest.mark.parametrize("labels", ["", "cat|dog", "(a)(b)", "(", 3, True])
def test_a_wrong_rule_for_labels_is_refused(labels: Any, raw: Path) -> None:
    write_files(raw, ["cat1.jpg", "dog1.jpg"])
    assert_refused("class_folders", raw, r"reader_options\.labels is ", labels=labels)


def test_a_class_may_be_called_train(raw: Path) -> None:
    write_files(raw, ["train/1.jpg", "bus/1.jpg", "car/1.jpg"])
    assert read_records("class_folders", raw)[0].classes == ("bus", "car", "train")
    write_files(raw, ["train/2023/2.jpg", "train/2024/3.jpg"])
    assert_refused(
        "class_folders", raw, r"can be read in two ways: train/ holds folders .* and bus/ .*RAW=.*/raw/train if"
    )
    assert read("class_folders", raw, {"classes": ["bus", "car", "train"]}).classes == ("bus", "car", "train")


def test_a_class_may_have_a_name_that_begins_as_a_sides(raw: Path) -> None:
    write_files(raw, ["train station/day/1.jpg", "train station/night/1.jpg", "bus station/1.jpg"])
    assert read_records("class_folders", raw)[0].classes == ("bus station", "train station")


def test_a_name_in_two_unicode_forms_is_one_class_and_said(raw: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    write_files(raw, [f"train/{composed}/1.jpg", f"train/{apart}/2.jpg", "train/tea/1.jpg", f"test/{apart}/1.jpg"])
    for reader in ("class_folders", "moths"):
        dataset, records = read_records(reader, raw)
        assert dataset.classes == (composed, "tea")
        assert labels_of(records, "train") == [composed, composed, "tea"] and labels_of(records, "test") == [composed]
        assert all(record.read(raw) for record in records)
        (remark,) = dataset.remarks
        assert remark == f"class {composed!r} has its name in two Unicode forms, 'caf\\xe9', 'cafe\\u0301': read as one"
    option = {"class_folders": "classes", "moths": "species"}
    for reader, name in option.items():
        assert len(read_records(reader, raw, **{name: [apart, "tea"]})[1]) == 4


def test_class_folders_choose_classes(raw: Path) -> None:
    write_class_folders(raw)
    write_files(raw, ["eel/1.jpg"])
    dataset, records = read_records("class_folders", raw, classes=["eel", "cat"])
    assert dataset.classes == ("cat", "eel")
    assert {record.label for record in records} == {"cat", "eel"}


@pytest.mark.parametrize(
    ("value", "message"), [(2.5, "is 2.5: give a whole number"), ([{"x": 1}, "dog"], "is not in .*choose from")]
)
def test_what_chooses_no_classes_is_refused(value: object, message: str, raw: Path) -> None:
    write_class_folders(raw)
    assert_refused("class_folders", raw, message, classes=value)


def test_numbers_choose_folders_that_are_classes(raw: Path) -> None:
    write_files(raw, ["train/x/1.jpg", "7/1.jpg", "8/1.jpg"])
    assert read_records("class_folders", raw, classes=["train", 7])[0].classes == ("7", "train")


def test_class_folders_refuse_what_cannot_be_classes(raw: Path) -> None:
    write_files(raw, ["photos/cat/1.jpg", "photos/dog/1.jpg"])
    assert_refused("class_folders", raw, "1 class folders.*at least two.*give .*/photos if the classes are in there")
    (raw / "empty").mkdir()
    assert_refused("class_folders", raw, r"raw/empty holds no image, nothing\. Put images")
    write_files(raw, ["empty/readme.txt"])
    assert_refused("class_folders", raw, r"raw/empty holds no image, only readme\.txt")
    (raw / "empty/readme.txt").rename(raw / "empty/readme.jpg")
    (raw / "album/inner").mkdir(parents=True)
    assert_refused("class_folders", raw, "raw/album holds no image, only the folder inner")


@pytest.mark.parametrize("suffix", [".jpe", ".MPO", ".pbm", ".pnm", ".dib", ".apng", ".heic", ".jxl"])
def test_images_of_rare_suffixes_are_images(suffix: str, raw: Path) -> None:
    write_files(raw / "folders", [f"cat/1{suffix}", "dog/1.jpg"])
    assert len(read_records("class_folders", raw / "folders")[1]) == 2
    write_files(raw / "names", [f"cat.0{suffix}", f"dog.1{suffix}"])
    assert len(read_records("class_folders", raw / "names", labels="names")[1]) == 2


def test_a_dangling_link_is_refused(raw: Path) -> None:
    write_class_folders(raw)
    (raw / "cat/3.jpg").symlink_to(raw / "gone.jpg")
    assert_refused("class_folders", raw, r"cat/3\.jpg is a broken link")


@pytest.mark.parametrize(
    ("link", "target"), [("loop", "."), ("cat/up", ".."), ("cat/self", "self"), ("cat/round", "../dog")]
)
def test_a_link_round_in_a_circle_is_refused_in_one_short_line(link: str, target: str, raw: Path) -> None:
    write_class_folders(raw)
    (raw / link).symlink_to(target)
    (raw / "dog/round").symlink_to("../cat")
    what = "itself" if link == "cat/self" else "[^ ]+, a folder that contains it"
    with pytest.raises(
        DatasetError, match=rf"^[^ ]+/raw/(dog/round/)?{link}(/round)? is a link to {what}\. .*[Dd]elete"
    ) as caught:
        prepare(Recipe(name="store", reader="class_folders", raw=raw, image_size=8), raw.parent / "store")
    assert len(str(caught.value)) < 500
    assert_refused("class_folders", raw, "is a link to ")


def test_a_folder_that_may_not_be_read_is_named(raw: Path) -> None:
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as shared:
        raw = Path(shared) / "raw"
        write_class_folders(raw)
        os.chmod(shared, 0o755)
        (raw / "dog" / "inner").chmod(0o311)
        os.seteuid(user or 65534)  # root may read anything
        try:
            with pytest.raises(DatasetError, match=r"folder .*/raw/dog/inner cannot be read: Permission denied"):
                listing(raw)
            assert_refused("class_folders", raw, r"folder .*/raw/dog/inner cannot be read: Permission denied")
        finally:
            os.seteuid(user)


def test_a_linked_class_folder_is_read(raw: Path) -> None:
    write_class_folders(raw)
    (raw / "dog").rename(raw.parent / "elsewhere")
    (raw / "dog").symlink_to(raw.parent / "elsewhere")
    assert len(read_records("class_folders", raw)[1]) == 4
