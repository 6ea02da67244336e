"""The layout of each reader in small, and calls of a reader."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from training.data import tfrecord
from training.data.readers import petals, read
from training.data.records import DatasetError, RawDataset, Record

NAMES = json.loads(Path(petals.__file__).with_name("petals_classes.json").read_text())
TRAIN_FILE = "tfrecords-jpeg-224x224/train/00-224x224-2.tfrec"


def write_files(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def write_asl(raw: Path) -> None:
    for label in ("A", "B", "space"):
        write_files(
            raw / f"asl_alphabet_train/asl_alphabet_train/{label}", [f"{label}{n}.jpg" for n in (1, 150, 151, 3000)]
        )
    write_files(raw / "asl_alphabet_test/asl_alphabet_test", ["A_test.jpg", "space_test.jpg"])


def write_class_folders(raw: Path) -> None:
    write_files(raw, ["cat/1.jpg", "cat/2.png", "dog/1.JPG", "dog/.hidden", "dog/inner/9.jpg", ".git/x.jpg"])


def write_fingers(raw: Path) -> None:
    write_files(raw, [f"train/{name}.png" for name in ("a_0L", "b_5R", "c_5R", "d_5R")])
    write_files(raw, ["test/e_3L.png", "test/f_3R.png"])


def write_moths(raw: Path) -> None:
    for species in ("ATLAS MOTH", "IO MOTH", "LUNA MOTH"):
        write_files(raw, [f"{side}/{species}/{n}.jpg" for side in ("train", "valid", "test") for n in range(2)])


def write_places(raw: Path) -> None:
    (raw / "data_256").mkdir(parents=True)
    (raw / "categories_places365.txt").write_text("/a/airfield 0\n/b/bar 1\n/c/church/outdoor 2\n/z/zen_garden 3\n")
    train = ["/a/airfield/1.jpg 0", "/a/airfield/2.jpg 0", "/c/church/outdoor/1.jpg 2"]
    (raw / "places365_train_standard.txt").write_text("\n".join(train))
    (raw / "places365_val.txt").write_text("v1.jpg 2\nv2.jpg 0\nv3.jpg 1\n")
    write_files(raw / "data_256", [line.split()[0][1:] for line in train])
    write_files(raw / "val_256", ["v1.jpg", "v2.jpg", "v3.jpg"])


def petal(name: str, label: int | None, **more: bytes) -> bytes:
    values: dict[str, bytes | int] = {"image": b"\xff\xd8 of " + name.encode(), "id": name.encode(), **more}
    return tfrecord.example(values if label is None else {"class": label, **values})


def write_petals(raw: Path) -> None:
    for side, label in (("train", 87), ("val", 0), ("test", None)):
        folder = raw / "tfrecords-jpeg-224x224" / side
        folder.mkdir(parents=True)
        tfrecord.write(folder / "00-224x224-2.tfrec", [petal(f"{side}{n}", label) for n in range(2)])


LAYOUTS: Mapping[str, Callable[[Path], None]] = {
    "asl_alphabet": write_asl,
    "class_folders": write_class_folders,
    "fingers": write_fingers,
    "moths": write_moths,
    "petals": write_petals,
    "places365": write_places,
}


def read_records(reader: str, raw: Path, **options: Any) -> tuple[RawDataset, list[Record]]:
    dataset = read(reader, raw, options)
    return dataset, list(dataset.records)


def assert_refused(reader: str, raw: Path, message: str, **options: Any) -> None:
    with pytest.raises(DatasetError, match=message):
        read_records(reader, raw, **options)


def labels_of(records: Iterable[Record], split: str) -> list[str | None]:
    return [record.label for record in records if record.split == split]
