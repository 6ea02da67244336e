"""The readers of lists and TFRecords, Places365 and Petals: subsets, class names, and what they refuse."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.raw_layouts import (
    NAMES,
    assert_refused,
    labels_of,
    petal,
    read_records,
    write_files,
    write_petals,
    write_places,
)
from training.data import tfrecord
from training.data.readers import read

# Places365


def test_places_classes_are_the_present_ones_in_index_order(raw: Path) -> None:
    write_places(raw)
    dataset, records = read_records("places365", raw)
    assert dataset.classes == ("airfield", "church/outdoor")
    assert labels_of(records, "train") == ["airfield", "airfield", "church/outdoor"]
    # "bar" has no train image: its val image is passed on, for prepare to report.
    assert labels_of(records, "test") == ["church/outdoor", "airfield", "bar"]


def test_places_categories_may_stand_in_any_order(raw: Path) -> None:
    write_places(raw)
    (raw / "categories_places365.txt").write_text("/c/church/outdoor 2\n/b/bar 1\n/z/zen_garden 3\n/a/airfield 0\n")
    assert read("places365", raw).classes == ("airfield", "church/outdoor")


def test_places_all_classes_stay_outputs_when_asked(raw: Path) -> None:
    write_places(raw)
    assert read("places365", raw, {"classes": "all"}).classes == ("airfield", "bar", "church/outdoor", "zen_garden")


@pytest.mark.parametrize("classes", [["church/outdoor", "bar"], 2])
def test_places_take_a_subset(classes: Any, raw: Path) -> None:
    write_places(raw)
    dataset, records = read_records("places365", raw, classes=classes)
    assert dataset.classes == (("bar", "church/outdoor") if classes != 2 else ("airfield", "church/outdoor"))
    assert {record.label for record in records} == set(dataset.classes)


def test_places_refuse_a_list_that_names_missing_files(raw: Path) -> None:
    write_places(raw)
    (raw / "data_256/a/airfield/2.jpg").unlink()
    shutil.rmtree(raw / "data_256/c")
    pattern = r"places365_train_standard\.txt names 2 files .*first data_256/a/airfield/2\.jpg, data_256/c/.*Unpack"
    assert_refused("places365", raw, pattern)
    (raw / "val_256/v2.jpg").unlink()
    write_files(raw / "data_256", ["a/airfield/2.jpg", "c/church/outdoor/1.jpg"])
    assert_refused("places365", raw, r"places365_val\.txt names 1 files .*first val_256/v2\.jpg")
    # Files of classes that were not chosen need not be there.
    read_records("places365", raw, classes=["church/outdoor", "bar"])


def test_places_find_missing_files_in_large_folders_too(raw: Path) -> None:
    write_places(raw)
    names = [f"/a/airfield/{number:04}.jpg" for number in range(200)]
    with open(raw / "places365_train_standard.txt", "a") as file:
        file.write("\n" + "".join(f"{name} 0\n" for name in names))
    write_files(raw / "data_256", [name[1:] for name in names[:-5]])
    assert_refused(
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
    write_places(raw)
    with open(raw / "places365_train_standard.txt", "a") as file:
        file.write(f"\n{line}\n")
    assert_refused("places365", raw, rf"places365_train_standard\.txt: line 4 .*{message}.*get the list again")


@pytest.mark.parametrize("text", ["/a/airfield\n", "/a/airfield 0\n/b/bar 0\n", "airfield 0\n", "/a/x 0\n/b/x 1\n"])
def test_places_refuse_wrong_categories(text: str, raw: Path) -> None:
    write_places(raw)
    (raw / "categories_places365.txt").write_text(text)
    assert_refused("places365", raw, r"categories_places365\.txt: line \d is ")


@pytest.mark.parametrize("name", ["categories_places365.txt", "places365_val.txt", "val_256", "data_256"])
def test_places_name_what_is_missing(name: str, raw: Path) -> None:
    write_places(raw)
    (raw / name).rename(raw / "away")
    assert_refused("places365", raw, r"raw/(categories|places365_val|val_256|data_256).* is missing\. Give")


@pytest.mark.parametrize("name", ["categories_places365.txt", "places365_train_standard.txt", "places365_val.txt"])
def test_places_lists_may_have_a_byte_order_mark_and_empty_lines(name: str, raw: Path) -> None:
    write_places(raw)
    expected = read_records("places365", raw)
    lines = (raw / name).read_bytes().replace(b"\n", b"\r\n\r\n")
    (raw / name).write_bytes(b"\xef\xbb\xbf" + lines + b"\r\n  \n\n")
    found = read_records("places365", raw)
    assert (found[0].classes, found[1]) == (expected[0].classes, expected[1])


# Petals


def test_petals_point_at_the_jpeg_and_keep_104_outputs(raw: Path) -> None:
    write_petals(raw)
    dataset, records = read_records("petals", raw)
    assert len(dataset.classes) == 104
    assert (dataset.classes[0], dataset.classes[87], dataset.classes[103]) == (
        "pink primrose",
        "cyclamen ",
        "wild rose",
    )
    assert labels_of(records, "train") == ["cyclamen "] * 2 + ["pink primrose"] * 2
    assert labels_of(records, "test") == [None, None]
    assert records[0].path.endswith("train/00-224x224-2.tfrec") and records[0].read(raw) == b"\xff\xd8 of train0"


def test_petals_names_come_from_classes_txt(raw: Path) -> None:
    write_petals(raw)
    text = "".join(f"{index}\t{name}\n" for index, name in enumerate(NAMES))
    (raw / "classes.txt").write_text(text.replace("cyclamen ", "Alpenveilchen "))
    assert read("petals", raw).classes[87] == "Alpenveilchen "
    (raw / "classes.txt").write_text("0\tone\n1\ttwo\n")
    dataset, records = read_records("petals", raw)
    assert dataset.classes == ("one", "two")
    assert labels_of(records, "train") == ["87", "87", "one", "one"], "87 has no name: prepare reports it"


@pytest.mark.parametrize("text", ["0\tone\n2\ttwo\n", "0\tone\n1\tone\n", "one\ntwo\n", "0\tone\n", ""])
def test_petals_refuse_wrong_class_names(text: str, raw: Path) -> None:
    write_petals(raw)
    (raw / "classes.txt").write_text(text)
    assert_refused("petals", raw, r"classes\.txt.*(Write one class|Write at least two)")


def test_petals_test_labels_are_read_where_they_are(raw: Path) -> None:
    write_petals(raw)
    (raw / "test_labels.csv").write_text("id,class,source\ntest1,53,a/b.jpg\n")
    assert labels_of(read_records("petals", raw)[1], "test") == [None, "sunflower"]
    assert labels_of(read_records("petals", raw, test_labels=False)[1], "test") == [None, None]


def test_petals_lists_may_have_a_byte_order_mark_and_empty_lines(raw: Path) -> None:
    write_petals(raw)
    mark = b"\xef\xbb\xbf"
    (raw / "test_labels.csv").write_bytes(mark + b"id,class\r\n\r\ntest1,53\r\n \r\n\r\n")
    (raw / "classes.txt").write_bytes(
        mark + "".join(f"{n}\t{name}\n" for n, name in enumerate(NAMES)).encode() + b" \n\n"
    )
    dataset, records = read_records("petals", raw)
    assert dataset.classes == tuple(NAMES) and labels_of(records, "test") == [None, "sunflower"]
    assert dataset.lists == ("classes.txt", "test_labels.csv")


@pytest.mark.parametrize(
    ("rows", "message"),
    [("test1,53\ngone7,3\n", "names 1 ids that no test record has, first gone7"), ("test1\n", "row 1 is not complete")],
)
def test_petals_refuse_wrong_test_labels(rows: str, message: str, raw: Path) -> None:
    write_petals(raw)
    (raw / "test_labels.csv").write_text("id,class\n" + rows)
    assert_refused("petals", raw, rf"test_labels\.csv.*{message}")


@pytest.mark.parametrize("lost", [1, 30, 70])
def test_petals_refuse_a_truncated_record(lost: int, raw: Path) -> None:
    write_petals(raw)
    file = raw / "tfrecords-jpeg-224x224/val/00-224x224-2.tfrec"
    file.write_bytes(file.read_bytes()[:-lost])
    assert_refused("petals", raw, r"val/00-224x224-2\.tfrec: record \d at byte \d+ is truncated.*again")


def test_petals_refuse_a_file_cut_between_records(raw: Path) -> None:
    write_petals(raw)
    tfrecord.write(raw / "tfrecords-jpeg-224x224/val/00-224x224-2.tfrec", [petal("only", 3)])
    assert_refused("petals", raw, r"val/00-224x224-2\.tfrec is truncated: its name promises 2 records, it holds 1")


def test_petals_refuse_a_wrong_checksum(raw: Path) -> None:
    write_petals(raw)
    file = raw / "tfrecords-jpeg-224x224/train/00-224x224-2.tfrec"
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    file.write_bytes(data)
    assert_refused("petals", raw, r"train/00-224x224-2\.tfrec: record 2 .*checksum")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (tfrecord.example({"image": b"x", "class": 3}), "record 3 is of another layout: its keys are class, image;"),
        (tfrecord.example({"image": b"", "class": 3, "id": b"x"}), "record 3 is of another layout"),
        (b"\xff\xff\xff", "record 3 is not an encoded"),
        (petal("unlabelled", None), "record 3 has no class.*Move its file to test/"),
        (petal("train0", 3), "record 3 has the id train0, as .*record 1 has"),
    ],
)
def test_petals_refuse_a_record_of_another_layout(payload: bytes, message: str, raw: Path) -> None:
    write_petals(raw)
    with open(raw / "tfrecords-jpeg-224x224/train/00-224x224-2.tfrec", "ab") as file:
        file.write(tfrecord.frame(payload))
    assert_refused("petals", raw, rf"train/00-224x224-2\.tfrec: {message}")


def test_petals_choose_a_size(raw: Path) -> None:
    write_petals(raw)
    shutil.copytree(raw / "tfrecords-jpeg-224x224", raw / "tfrecords-jpeg-512x512")
    assert read_records("petals", raw)[1][0].path.startswith("tfrecords-jpeg-224x224/")
    assert read_records("petals", raw, size=512)[1][0].path.startswith("tfrecords-jpeg-512x512/")
    assert_refused("petals", raw, "has no tfrecords-jpeg-331x331/: set .* one of tfrecords-jpeg-224x224, ", size=331)
    shutil.rmtree(raw / "tfrecords-jpeg-224x224")
    assert read_records("petals", raw)[1][0].path.startswith("tfrecords-jpeg-512x512/")
