"""Each reader on its own layout in small, on what it has to refuse, and on the real folders where they are at hand."""

import collections
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from training.data import tfrecord
from training.data.prepare import prepare
from training.data.readers import READERS, petals, read
from training.data.recipe import Recipe, listing
from training.data.records import DatasetError, RawDataset, Record

NAMES = json.loads(Path(petals.__file__).with_name("petals_classes.json").read_text())


_TRAIN_FILE = "tfrecords-jpeg-224x224/train/00-224x224-2.tfrec"


def _write(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def _asl(raw: Path) -> None:
    for label in ("A", "B", "space"):
        _write(raw / f"asl_alphabet_train/asl_alphabet_train/{label}", [f"{label}{n}.jpg" for n in (1, 150, 151, 3000)])
    _write(raw / "asl_alphabet_test/asl_alphabet_test", ["A_test.jpg", "space_test.jpg"])


def _class_folders(raw: Path) -> None:
    _write(raw, ["cat/1.jpg", "cat/2.png", "dog/1.JPG", "dog/.hidden", "dog/inner/9.jpg", ".git/x.jpg"])


def _fingers(raw: Path) -> None:
    _write(raw, [f"train/{name}.png" for name in ("a_0L", "b_5R", "c_5R", "d_5R")])
    _write(raw, ["test/e_3L.png", "test/f_3R.png"])


def _moths(raw: Path) -> None:
    for species in ("ATLAS MOTH", "IO MOTH", "LUNA MOTH"):
        _write(raw, [f"{side}/{species}/{n}.jpg" for side in ("train", "valid", "test") for n in range(2)])


def _places(raw: Path) -> None:
    (raw / "data_256").mkdir(parents=True)
    (raw / "categories_places365.txt").write_text("/a/airfield 0\n/b/bar 1\n/c/church/outdoor 2\n/z/zen_garden 3\n")
    train = ["/a/airfield/1.jpg 0", "/a/airfield/2.jpg 0", "/c/church/outdoor/1.jpg 2"]
    (raw / "places365_train_standard.txt").write_text("\n".join(train))
    (raw / "places365_val.txt").write_text("v1.jpg 2\nv2.jpg 0\nv3.jpg 1\n")
    _write(raw / "data_256", [line.split()[0][1:] for line in train])
    _write(raw / "val_256", ["v1.jpg", "v2.jpg", "v3.jpg"])


def _petal(name: str, label: int | None, **more: bytes) -> bytes:
    values: dict[str, bytes | int] = {"image": b"\xff\xd8 of " + name.encode(), "id": name.encode(), **more}
    return tfrecord.example(values if label is None else {"class": label, **values})


def _petals(raw: Path) -> None:
    for side, label in (("train", 87), ("val", 0), ("test", None)):
        folder = raw / "tfrecords-jpeg-224x224" / side
        folder.mkdir(parents=True)
        tfrecord.write(folder / "00-224x224-2.tfrec", [_petal(f"{side}{n}", label) for n in range(2)])


LAYOUTS: Mapping[str, Callable[[Path], None]] = {
    "asl_alphabet": _asl,
    "class_folders": _class_folders,
    "fingers": _fingers,
    "moths": _moths,
    "petals": _petals,
    "places365": _places,
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def _records(reader: str, raw: Path, **options: Any) -> tuple[RawDataset, list[Record]]:
    dataset = read(reader, raw, options)
    return dataset, list(dataset.records)


def _refused(reader: str, raw: Path, message: str, **options: Any) -> None:
    with pytest.raises(DatasetError, match=message):
        _records(reader, raw, **options)


def _labels(records: Iterable[Record], split: str) -> list[str | None]:
    return [record.label for record in records if record.split == split]


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
    _refused(reader, raw, rf"{re.escape(str(raw))} is empty\. Put .*RAW=<folder>")


@pytest.mark.parametrize("reader", READERS)
def test_missing_folder_is_refused(reader: str, raw: Path) -> None:
    _refused(reader, raw / "gone", r"raw/gone cannot be read: .*RAW=<folder>")


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
    _refused(reader, raw, f"{name}.*{expected}")


@pytest.mark.parametrize("reader", READERS)
def test_another_data_sets_layout_is_refused(reader: str, raw: Path) -> None:
    (_petals if reader != "petals" else _places)(raw)
    _refused(reader, raw, re.escape(str(raw)))


@pytest.mark.parametrize("reader", READERS)
def test_an_unknown_option_names_the_nearest(reader: str, raw: Path) -> None:
    LAYOUTS[reader](raw)
    _refused(reader, raw, r"no 'image_per_class': did you mean 'images_per_class'", image_per_class=3)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("wrong", [0, -1, True, "3", 1.5])
def test_a_count_that_is_none_is_refused(reader: str, wrong: Any, raw: Path) -> None:
    LAYOUTS[reader](raw)
    _refused(reader, raw, "images_per_class is .*whole number", images_per_class=wrong)


@pytest.mark.parametrize("reader", READERS)
def test_images_per_class_limits_train_alone(reader: str, raw: Path) -> None:
    LAYOUTS[reader](raw)
    _, everything = _records(reader, raw)
    _, few = _records(reader, raw, images_per_class=1)
    assert _labels(few, "test") == _labels(everything, "test")
    counts = collections.Counter((record.label, Path(record.path).parent) for record in few if record.split == "train")
    assert set(counts.values()) == {1}
    assert {label for label, _ in counts} == set(_labels(everything, "train"))


def test_an_unknown_reader_names_the_nearest(raw: Path) -> None:
    _refused("petal", raw, "is 'petal', and training/data/readers has no such reader: did you mean 'petals'")
    _refused("xyz", raw, "choose one of asl_alphabet, class_folders")


@pytest.mark.parametrize(
    ("reader", "name", "data"),
    [
        ("places365", "categories_places365.txt", b"/a/airfield 0\n/c/caf\xe9 1\n"),
        ("places365", "places365_train_standard.txt", b"/c/caf\xe9/1.jpg 0\n"),
        ("places365", "places365_val.txt", b"caf\xe9.jpg 0\n"),
        ("petals", "classes.txt", b"0\trose\n1\t\xe9glantine\n"),
        ("petals", "test_labels.csv", b"id,class\n\xe9,3\n"),
        ("petals", _TRAIN_FILE, tfrecord.frame(tfrecord.example({"image": b"x", "class": 3, "id": b"\xe9"}))),
        ("petals", _TRAIN_FILE, tfrecord.frame(_petal("x", 3, cafe=b"").replace(b"cafe", b"caf\xe9"))),
    ],
    ids=["categories", "train list", "val list", "class names", "test labels", "id", "key"],
)
def test_what_is_not_utf_8_is_refused_by_name(reader: str, name: str, data: bytes, raw: Path) -> None:
    LAYOUTS[reader](raw)
    if name == _TRAIN_FILE:
        data = (raw / name).read_bytes() + data
    (raw / name).write_bytes(data)
    store = raw.parent / "processed" / "store"
    message = r"(is not UTF-8.*|record 3 is not an encoded .*)(Save it|Copy or download|Give TFRecord files)"
    with pytest.raises(DatasetError, match=re.escape(str(raw / name)) + f".*{message}"):
        prepare(Recipe(name="store", reader=reader, raw=raw, image_size=8), store)
    assert list(store.parent.iterdir()) == [], "nothing half-written is left behind"


def test_options_may_come_from_a_hydra_config(raw: Path) -> None:
    _moths(raw)
    options = OmegaConf.create({"species": ["IO MOTH", "LUNA MOTH"], "images_per_class": None})
    assert read("moths", raw, options).classes == ("IO MOTH", "LUNA MOTH")


# ASL alphabet


@pytest.mark.parametrize("nested", [True, False])
def test_asl_reads_both_depths(nested: bool, raw: Path) -> None:
    _asl(raw)
    if not nested:
        for side in ("asl_alphabet_train", "asl_alphabet_test"):
            (raw / side / side).rename(raw / "inner")
            (raw / side).rmdir()
            (raw / "inner").rename(raw / side)
    dataset, records = _records("asl_alphabet", raw)
    assert len(dataset.classes) == 29 and dataset.classes[-4:] == ("Z", "del", "nothing", "space")
    assert _labels(records, "train") == ["A"] * 4 + ["B"] * 4 + ["space"] * 4
    assert _labels(records, "test") == ["A", "space"]


def test_asl_groups_are_blocks_of_frames(raw: Path) -> None:
    _asl(raw)
    _, records = _records("asl_alphabet", raw)
    groups = {Path(record.path).stem: record.group for record in records}
    assert groups["A1"] == groups["A150"] == "A/0"
    assert groups["A151"] == "A/1" and groups["A3000"] == "A/19" and groups["B1"] == "B/0"
    _, records = _records("asl_alphabet", raw, frames_per_block=3000)
    assert {record.group for record in records if record.split == "train"} == {"A/0", "B/0", "space/0"}


def test_images_per_class_are_spread_over_the_frames(raw: Path) -> None:
    _asl(raw)
    _, records = _records("asl_alphabet", raw, images_per_class=2)
    assert [Path(record.path).stem for record in records if record.label == "A"] == ["A1", "A151", "A_test"]


def test_asl_without_a_test_folder_and_with_an_unknown_sign(raw: Path) -> None:
    _asl(raw)
    shutil.rmtree(raw / "asl_alphabet_test")
    _write(raw, ["asl_alphabet_train/asl_alphabet_train/ß/ß1.jpg"])
    dataset, records = _records("asl_alphabet", raw)
    assert records[-1].label == "ß" and "ß" not in dataset.classes
    assert _labels(records, "test") == []


# Class folders


def test_class_folders_pass_over_hidden_ones_and_read_nested_ones(raw: Path) -> None:
    _class_folders(raw)
    _write(
        raw, ["dog/inner/deep/8.jpg", "dog/.ipynb_checkpoints/1.jpg", "cat/__MACOSX/._1.jpg", "__MACOSX/cat/._1.jpg"]
    )
    dataset, records = _records("class_folders", raw)
    assert dataset.classes == ("cat", "dog")
    paths = ["cat/1.jpg", "cat/2.png", "dog/1.JPG", "dog/inner/9.jpg", "dog/inner/deep/8.jpg"]
    assert [record.path for record in records] == paths
    assert _labels(records, "train") == ["cat", "cat", "dog", "dog", "dog"]
    assert len(_records("class_folders", raw, images_per_class=2)[1]) == 4


def test_class_folders_keep_what_may_be_an_image_for_prepare_to_report(raw: Path) -> None:
    _class_folders(raw)
    _write(raw, ["cat/notes.txt", "cat/Thumbs.db"])
    assert "cat/notes.txt" in {record.path for record in _records("class_folders", raw)[1]}
    assert "cat/Thumbs.db" not in {record.path for record in _records("class_folders", raw)[1]}


@pytest.mark.parametrize(
    ("sides", "test_side"), [(("train", "test"), "test"), (("train", "val"), "val"), (("Train", "test", "val"), "test")]
)
def test_class_folders_with_sides(sides: tuple[str, ...], test_side: str, raw: Path) -> None:
    for side in sides:
        _class_folders(raw / side)
    _write(raw, [f"{test_side}/only here/1.jpg"])
    dataset, records = _records("class_folders", raw)
    assert dataset.classes == ("cat", "dog")
    assert {record.path.split("/")[0] for record in records if record.split == "test"} == {test_side}
    assert _labels(records, "test") == ["cat", "cat", "dog", "dog", "only here"]
    assert len(_labels(records, "train")) == 4 * (len(sides) - 1)


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
        _class_folders(raw / side)
    _write(raw, ["seg_pred/1.jpg", "__MACOSX/seg_train/._1.jpg", "images to test/1.jpg", "moths.csv"])
    dataset, records = _records("class_folders", raw)
    assert dataset.classes == ("cat", "dog")
    assert {(record.path.split("/")[0], record.split) for record in records} == {
        (side.split("/")[0], split) for side, split in zip(sides, splits, strict=True)
    }
    assert [remark.split(" is ")[0] for remark in dataset.remarks] == ["images to test/", "seg_pred/"]


def test_unlabelled_test_images_are_not_read_and_val_judges_in_their_place(raw: Path) -> None:
    for side in ("train", "valid"):
        _class_folders(raw / side)
    _write(raw, ["test/1.jpg", "test/2.jpg"])
    dataset, records = _records("class_folders", raw)
    assert {record.path.split("/")[0] for record in records if record.split == "test"} == {"valid"}
    assert dataset.remarks == ("test/ is not read: it holds no class folders of a train, validation or test side",)


@pytest.mark.parametrize("test", ["test", "test1", "testing"])
def test_flat_sides_are_refused_and_labelled_names_are_offered(test: str, raw: Path) -> None:
    _write(raw / "train", ["1.jpg", "2.jpg"])
    _write(raw / test, ["1.jpg"])
    _refused("class_folders", raw, r"train/ holds no folder for each class, but 1\.jpg .*RAW=<folder>$")
    shutil.rmtree(raw / "train")
    _write(raw / "train", [f"{name}.{number}.jpg" for name in ("cat", "dog") for number in range(3)])
    _refused("class_folders", raw, r"cat\.0\.jpg hold the class \(cat, dog\), read them .*reader_options\.labels=names")
    dataset, records = _records("class_folders", raw, labels="names")
    assert dataset.classes == ("cat", "dog")
    assert _labels(records, "train") == ["cat"] * 3 + ["dog"] * 3 and _labels(records, "test") == []
    _write(raw / test, ["dog.7.jpg", "notes 3.txt"])
    assert _labels(_records("class_folders", raw, labels="names")[1], "test") == ["dog"]
    assert len(_labels(_records("class_folders", raw, labels="names", images_per_class=2)[1], "train")) == 4


def test_flat_images_without_sides_are_read_by_their_names(raw: Path) -> None:
    _write(raw, ["american pug_10.jpg", "american pug_11.jpg", "Abyssinian_1.jpg", "Abyssinian (2).jpg", "unclear.jpg"])
    dataset, records = _records("class_folders", raw, labels="names")
    assert dataset.classes == ("Abyssinian", "american pug")
    assert (records[0].path, records[0].label) == ("unclear.jpg", None)
    (raw / "unclear.jpg").unlink()
    _refused("class_folders", raw, r"not laid out as class folders.*\(Abyssinian, american pug\).*labels=names")
    _refused("class_folders", raw, "only the class 'pug', a classifier needs at least two", labels="(pug)")
    hands = ["x_3L.png", "y_0R.png"]
    _write(raw, hands)
    found = {record.path: record.label for record in _records("class_folders", raw, labels=r"(\d[LR])$")[1]}
    assert {path: found[path] for path in hands} == {"x_3L.png": "3L", "y_0R.png": "0R"}


@pytest.mark.parametrize("labels", ["", "cat|dog", "(a)(b)", "(", 3, True])
def test_a_wrong_rule_for_labels_is_refused(labels: Any, raw: Path) -> None:
    _write(raw, ["cat1.jpg", "dog1.jpg"])
    _refused("class_folders", raw, r"reader_options\.labels is ", labels=labels)


def test_a_class_may_be_called_train(raw: Path) -> None:
    _write(raw, ["train/1.jpg", "bus/1.jpg", "car/1.jpg"])
    assert _records("class_folders", raw)[0].classes == ("bus", "car", "train")
    _write(raw, ["train/2023/2.jpg", "train/2024/3.jpg"])
    _refused("class_folders", raw, r"can be read in two ways: train/ holds folders .* and bus/ .*RAW=.*/raw/train if")
    assert read("class_folders", raw, {"classes": ["bus", "car", "train"]}).classes == ("bus", "car", "train")


def test_a_class_may_have_a_name_that_begins_as_a_sides(raw: Path) -> None:
    _write(raw, ["train station/day/1.jpg", "train station/night/1.jpg", "bus station/1.jpg"])
    assert _records("class_folders", raw)[0].classes == ("bus station", "train station")


def test_a_name_in_two_unicode_forms_is_one_class_and_said(raw: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    _write(raw, [f"train/{composed}/1.jpg", f"train/{apart}/2.jpg", "train/tea/1.jpg", f"test/{apart}/1.jpg"])
    for reader in ("class_folders", "moths"):
        dataset, records = _records(reader, raw)
        assert dataset.classes == (composed, "tea")
        assert _labels(records, "train") == [composed, composed, "tea"] and _labels(records, "test") == [composed]
        assert all(record.read(raw) for record in records)
        (remark,) = dataset.remarks
        assert remark == f"class {composed!r} has its name in two Unicode forms, 'caf\\xe9', 'cafe\\u0301': read as one"
    option = {"class_folders": "classes", "moths": "species"}
    for reader, name in option.items():
        assert len(_records(reader, raw, **{name: [apart, "tea"]})[1]) == 4


def test_class_folders_choose_classes(raw: Path) -> None:
    _class_folders(raw)
    _write(raw, ["eel/1.jpg"])
    dataset, records = _records("class_folders", raw, classes=["eel", "cat"])
    assert dataset.classes == ("cat", "eel")
    assert {record.label for record in records} == {"cat", "eel"}


@pytest.mark.parametrize(
    ("value", "message"), [(2.5, "is 2.5: give a whole number"), ([{"x": 1}, "dog"], "is not in .*choose from")]
)
def test_what_chooses_no_classes_is_refused(value: object, message: str, raw: Path) -> None:
    _class_folders(raw)
    _refused("class_folders", raw, message, classes=value)


def test_numbers_choose_folders_that_are_classes(raw: Path) -> None:
    _write(raw, ["train/x/1.jpg", "7/1.jpg", "8/1.jpg"])
    assert _records("class_folders", raw, classes=["train", 7])[0].classes == ("7", "train")


def test_class_folders_refuse_what_cannot_be_classes(raw: Path) -> None:
    _write(raw, ["photos/cat/1.jpg", "photos/dog/1.jpg"])
    _refused("class_folders", raw, "1 class folders.*at least two.*give .*/photos if the classes are in there")
    (raw / "empty").mkdir()
    _refused("class_folders", raw, r"raw/empty holds no image, nothing\. Put images")
    _write(raw, ["empty/readme.txt"])
    _refused("class_folders", raw, r"raw/empty holds no image, only readme\.txt")
    (raw / "empty/readme.txt").rename(raw / "empty/readme.jpg")
    (raw / "album/inner").mkdir(parents=True)
    _refused("class_folders", raw, "raw/album holds no image, only the folder inner")


@pytest.mark.parametrize("suffix", [".jpe", ".MPO", ".pbm", ".pnm", ".dib", ".apng", ".heic", ".jxl"])
def test_images_of_rare_suffixes_are_images(suffix: str, raw: Path) -> None:
    _write(raw / "folders", [f"cat/1{suffix}", "dog/1.jpg"])
    assert len(_records("class_folders", raw / "folders")[1]) == 2
    _write(raw / "names", [f"cat.0{suffix}", f"dog.1{suffix}"])
    assert len(_records("class_folders", raw / "names", labels="names")[1]) == 2


def test_a_dangling_link_is_refused(raw: Path) -> None:
    _class_folders(raw)
    (raw / "cat/3.jpg").symlink_to(raw / "gone.jpg")
    _refused("class_folders", raw, r"cat/3\.jpg is a broken link")


@pytest.mark.parametrize(
    ("link", "target"), [("loop", "."), ("cat/up", ".."), ("cat/self", "self"), ("cat/round", "../dog")]
)
def test_a_link_round_in_a_circle_is_refused_in_one_short_line(link: str, target: str, raw: Path) -> None:
    _class_folders(raw)
    (raw / link).symlink_to(target)
    (raw / "dog/round").symlink_to("../cat")
    what = "itself" if link == "cat/self" else "[^ ]+, a folder that contains it"
    with pytest.raises(
        DatasetError, match=rf"^[^ ]+/raw/(dog/round/)?{link}(/round)? is a link to {what}\. .*[Dd]elete"
    ) as caught:
        prepare(Recipe(name="store", reader="class_folders", raw=raw, image_size=8), raw.parent / "store")
    assert len(str(caught.value)) < 500
    _refused("class_folders", raw, "is a link to ")


def test_a_folder_that_may_not_be_read_is_named(raw: Path) -> None:
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as shared:
        raw = Path(shared) / "raw"
        _class_folders(raw)
        os.chmod(shared, 0o755)
        (raw / "dog" / "inner").chmod(0o311)
        os.seteuid(user or 65534)  # root may read anything
        try:
            with pytest.raises(DatasetError, match=r"folder .*/raw/dog/inner cannot be read: Permission denied"):
                listing(raw)
            _refused("class_folders", raw, r"folder .*/raw/dog/inner cannot be read: Permission denied")
        finally:
            os.seteuid(user)


def test_a_linked_class_folder_is_read(raw: Path) -> None:
    _class_folders(raw)
    (raw / "dog").rename(raw.parent / "elsewhere")
    (raw / "dog").symlink_to(raw.parent / "elsewhere")
    assert len(_records("class_folders", raw)[1]) == 4


# Fingers


def test_fingers_labels_come_from_names(raw: Path) -> None:
    _fingers(raw)
    _write(raw, ["train/z_6L.png", "train/readme.txt"])
    dataset, records = _records("fingers", raw)
    assert dataset.classes == ("0L", "0R", "1L", "1R", "2L", "2R", "3L", "3R", "4L", "4R", "5L", "5R")
    unknown = {record.path: record.label for record in records if record.label not in dataset.classes}
    assert unknown == {"train/z_6L.png": "6L", "train/readme.txt": "me"}
    assert _labels(records, "test") == ["3L", "3R"]


def test_fingers_without_png_or_side_are_refused(raw: Path) -> None:
    _fingers(raw)
    shutil.rmtree(raw / "test")
    _refused("fingers", raw, "not laid out as the fingers data set: it holds train/")
    _write(raw, ["test/a_3L.bmp"])
    _refused("fingers", raw, r"raw/test holds no PNG file\. Put")


# Moths


def test_moths_keep_blanks_and_count_valid_as_train(raw: Path) -> None:
    _moths(raw)
    dataset, records = _records("moths", raw)
    assert dataset.classes == ("ATLAS MOTH", "IO MOTH", "LUNA MOTH")
    assert len(_labels(records, "train")) == 12 and len(_labels(records, "test")) == 6


@pytest.mark.parametrize("species", [["LUNA MOTH", "ATLAS MOTH"], 2])
def test_moths_take_a_subset(species: Any, raw: Path) -> None:
    _moths(raw)
    dataset, records = _records("moths", raw, species=species)
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
    _moths(raw)
    _refused("moths", raw, message, species=species)


def test_a_species_that_train_lacks_is_left_to_prepare(raw: Path) -> None:
    _moths(raw)
    shutil.rmtree(raw / "train/IO MOTH")
    dataset, records = _records("moths", raw)
    assert "IO MOTH" not in dataset.classes and _labels(records, "test").count("IO MOTH") == 2


# Places365


def test_places_classes_are_the_present_ones_in_index_order(raw: Path) -> None:
    _places(raw)
    dataset, records = _records("places365", raw)
    assert dataset.classes == ("airfield", "church/outdoor")
    assert _labels(records, "train") == ["airfield", "airfield", "church/outdoor"]
    # "bar" has no train image: its val image is passed on, for prepare to report.
    assert _labels(records, "test") == ["church/outdoor", "airfield", "bar"]


def test_places_categories_may_stand_in_any_order(raw: Path) -> None:
    _places(raw)
    (raw / "categories_places365.txt").write_text("/c/church/outdoor 2\n/b/bar 1\n/z/zen_garden 3\n/a/airfield 0\n")
    assert read("places365", raw).classes == ("airfield", "church/outdoor")


def test_places_all_classes_stay_outputs_when_asked(raw: Path) -> None:
    _places(raw)
    assert read("places365", raw, {"classes": "all"}).classes == ("airfield", "bar", "church/outdoor", "zen_garden")


@pytest.mark.parametrize("classes", [["church/outdoor", "bar"], 2])
def test_places_take_a_subset(classes: Any, raw: Path) -> None:
    _places(raw)
    dataset, records = _records("places365", raw, classes=classes)
    assert dataset.classes == (("bar", "church/outdoor") if classes != 2 else ("airfield", "church/outdoor"))
    assert {record.label for record in records} == set(dataset.classes)


def test_places_refuse_a_list_that_names_missing_files(raw: Path) -> None:
    _places(raw)
    (raw / "data_256/a/airfield/2.jpg").unlink()
    shutil.rmtree(raw / "data_256/c")
    pattern = r"places365_train_standard\.txt names 2 files .*first data_256/a/airfield/2\.jpg, data_256/c/.*Unpack"
    _refused("places365", raw, pattern)
    (raw / "val_256/v2.jpg").unlink()
    _write(raw / "data_256", ["a/airfield/2.jpg", "c/church/outdoor/1.jpg"])
    _refused("places365", raw, r"places365_val\.txt names 1 files .*first val_256/v2\.jpg")
    # Files of classes that were not chosen need not be there.
    _records("places365", raw, classes=["church/outdoor", "bar"])


def test_places_find_missing_files_in_large_folders_too(raw: Path) -> None:
    _places(raw)
    names = [f"/a/airfield/{number:04}.jpg" for number in range(200)]
    with open(raw / "places365_train_standard.txt", "a") as file:
        file.write("\n" + "".join(f"{name} 0\n" for name in names))
    _write(raw / "data_256", [name[1:] for name in names[:-5]])
    _refused(
        "places365", raw, r"names 5 files .*first data_256/a/airfield/0195\.jpg, \S+/0196\.jpg, \S+/0197\.jpg\. Unp"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/a/airfield/3.jpg", "is '/a/airfield/3.jpg', truncated"),
        ("/a/airfield/3.jpg x", "truncated or of another layout"),
        ("/a/airfield/3.jpg 9", "index 9, which categories_places365.txt does not have"),
        ("/a/../../secret.jpg 0", "points outside the image folder"),
    ],
)
def test_places_refuse_a_wrong_line(line: str, message: str, raw: Path) -> None:
    _places(raw)
    with open(raw / "places365_train_standard.txt", "a") as file:
        file.write(f"\n{line}\n")
    _refused("places365", raw, rf"places365_train_standard\.txt: line 4 .*{message}.*get the list again")


@pytest.mark.parametrize("text", ["/a/airfield\n", "/a/airfield 0\n/b/bar 0\n", "airfield 0\n", "/a/x 0\n/b/x 1\n"])
def test_places_refuse_wrong_categories(text: str, raw: Path) -> None:
    _places(raw)
    (raw / "categories_places365.txt").write_text(text)
    _refused("places365", raw, r"categories_places365\.txt: line \d is ")


@pytest.mark.parametrize("name", ["categories_places365.txt", "places365_val.txt", "val_256", "data_256"])
def test_places_name_what_is_missing(name: str, raw: Path) -> None:
    _places(raw)
    (raw / name).rename(raw / "away")
    _refused("places365", raw, r"raw/(categories|places365_val|val_256|data_256).* is missing\. Give")


@pytest.mark.parametrize("name", ["categories_places365.txt", "places365_train_standard.txt", "places365_val.txt"])
def test_places_lists_may_have_a_byte_order_mark_and_empty_lines(name: str, raw: Path) -> None:
    _places(raw)
    expected = _records("places365", raw)
    lines = (raw / name).read_bytes().replace(b"\n", b"\r\n\r\n")
    (raw / name).write_bytes(b"\xef\xbb\xbf" + lines + b"\r\n  \n\n")
    found = _records("places365", raw)
    assert (found[0].classes, found[1]) == (expected[0].classes, expected[1])


# Petals


def test_petals_point_at_the_jpeg_and_keep_104_outputs(raw: Path) -> None:
    _petals(raw)
    dataset, records = _records("petals", raw)
    assert len(dataset.classes) == 104
    assert (dataset.classes[0], dataset.classes[87], dataset.classes[103]) == (
        "pink primrose",
        "cyclamen ",
        "wild rose",
    )
    assert _labels(records, "train") == ["cyclamen "] * 2 + ["pink primrose"] * 2
    assert _labels(records, "test") == [None, None]
    assert records[0].path.endswith("train/00-224x224-2.tfrec") and records[0].read(raw) == b"\xff\xd8 of train0"


def test_petals_names_come_from_classes_txt(raw: Path) -> None:
    _petals(raw)
    text = "".join(f"{index}\t{name}\n" for index, name in enumerate(NAMES))
    (raw / "classes.txt").write_text(text.replace("cyclamen ", "Alpenveilchen "))
    assert read("petals", raw).classes[87] == "Alpenveilchen "
    (raw / "classes.txt").write_text("0\tone\n1\ttwo\n")
    dataset, records = _records("petals", raw)
    assert dataset.classes == ("one", "two")
    assert _labels(records, "train") == ["87", "87", "one", "one"], "87 has no name: prepare reports it"


@pytest.mark.parametrize("text", ["0\tone\n2\ttwo\n", "0\tone\n1\tone\n", "one\ntwo\n", "0\tone\n", ""])
def test_petals_refuse_wrong_class_names(text: str, raw: Path) -> None:
    _petals(raw)
    (raw / "classes.txt").write_text(text)
    _refused("petals", raw, r"classes\.txt.*(Write one class|Write at least two)")


def test_petals_test_labels_are_read_where_they_are(raw: Path) -> None:
    _petals(raw)
    (raw / "test_labels.csv").write_text("id,class,source\ntest1,53,a/b.jpg\n")
    assert _labels(_records("petals", raw)[1], "test") == [None, "sunflower"]
    assert _labels(_records("petals", raw, test_labels=False)[1], "test") == [None, None]


def test_petals_lists_may_have_a_byte_order_mark_and_empty_lines(raw: Path) -> None:
    _petals(raw)
    mark = b"\xef\xbb\xbf"
    (raw / "test_labels.csv").write_bytes(mark + b"id,class\r\n\r\ntest1,53\r\n \r\n\r\n")
    (raw / "classes.txt").write_bytes(
        mark + "".join(f"{n}\t{name}\n" for n, name in enumerate(NAMES)).encode() + b" \n\n"
    )
    dataset, records = _records("petals", raw)
    assert dataset.classes == tuple(NAMES) and _labels(records, "test") == [None, "sunflower"]
    assert dataset.lists == ("classes.txt", "test_labels.csv")


@pytest.mark.parametrize(
    ("rows", "message"),
    [("test1,53\ngone7,3\n", "names 1 ids that no test record has, first gone7"), ("test1\n", "row 1 is not complete")],
)
def test_petals_refuse_wrong_test_labels(rows: str, message: str, raw: Path) -> None:
    _petals(raw)
    (raw / "test_labels.csv").write_text("id,class\n" + rows)
    _refused("petals", raw, rf"test_labels\.csv.*{message}")


@pytest.mark.parametrize("lost", [1, 30, 70])
def test_petals_refuse_a_truncated_record(lost: int, raw: Path) -> None:
    _petals(raw)
    file = raw / "tfrecords-jpeg-224x224/val/00-224x224-2.tfrec"
    file.write_bytes(file.read_bytes()[:-lost])
    _refused("petals", raw, r"val/00-224x224-2\.tfrec: record \d at byte \d+ is truncated.*again")


def test_petals_refuse_a_file_cut_between_records(raw: Path) -> None:
    _petals(raw)
    tfrecord.write(raw / "tfrecords-jpeg-224x224/val/00-224x224-2.tfrec", [_petal("only", 3)])
    _refused("petals", raw, r"val/00-224x224-2\.tfrec is truncated: its name promises 2 records, it holds 1")


def test_petals_refuse_a_wrong_checksum(raw: Path) -> None:
    _petals(raw)
    file = raw / "tfrecords-jpeg-224x224/train/00-224x224-2.tfrec"
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    file.write_bytes(data)
    _refused("petals", raw, r"train/00-224x224-2\.tfrec: record 2 .*checksum")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (tfrecord.example({"image": b"x", "class": 3}), "record 3 is of another layout: its keys are class, image;"),
        (tfrecord.example({"image": b"", "class": 3, "id": b"x"}), "record 3 is of another layout"),
        (b"\xff\xff\xff", "record 3 is not an encoded"),
        (_petal("unlabelled", None), "record 3 has no class.*Move its file to test/"),
        (_petal("train0", 3), "record 3 has the id train0, as .*record 1 has"),
    ],
)
def test_petals_refuse_a_record_of_another_layout(payload: bytes, message: str, raw: Path) -> None:
    _petals(raw)
    with open(raw / "tfrecords-jpeg-224x224/train/00-224x224-2.tfrec", "ab") as file:
        file.write(tfrecord.frame(payload))
    _refused("petals", raw, rf"train/00-224x224-2\.tfrec: {message}")


def test_petals_choose_a_size(raw: Path) -> None:
    _petals(raw)
    shutil.copytree(raw / "tfrecords-jpeg-224x224", raw / "tfrecords-jpeg-512x512")
    assert _records("petals", raw)[1][0].path.startswith("tfrecords-jpeg-224x224/")
    assert _records("petals", raw, size=512)[1][0].path.startswith("tfrecords-jpeg-512x512/")
    _refused("petals", raw, "has no tfrecords-jpeg-331x331/: set .* one of tfrecords-jpeg-224x224, ", size=331)
    shutil.rmtree(raw / "tfrecords-jpeg-224x224")
    assert _records("petals", raw)[1][0].path.startswith("tfrecords-jpeg-512x512/")


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
        dataset, records = _records(reader, raw)
        assert records and len(dataset.classes) <= classes
        return
    raw = real_data / reader
    dataset, records = _records(reader, raw)
    assert len(dataset.classes) == classes
    assert (len(_labels(records, "train")), len(_labels(records, "test"))) == (train, test)
    assert {record.label for record in records} <= set(dataset.classes)
    assert len({record.id for record in records}) == train + test
    magic = b"\x89PNG" if reader == "fingers" else b"\xff\xd8\xff"
    assert all(record.read(raw).startswith(magic) for record in records[:: len(records) // 50])
    if reader == "petals":
        assert all(record.read(raw).endswith(b"\xff\xd9") for record in records)
        assert dataset.classes == tuple(NAMES)
