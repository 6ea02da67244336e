"""Odd layouts of raw images, as people have them: how to draw each, and the expected outcome of `make data`."""

import dataclasses
import io
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from training.data import tfrecord

Counts = dict[str, tuple[int, int]]
PETS = ("cat", "dog", "owl")


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """A layout and its expected outcome: images a class as (train, test), or a pattern of the line that refuses it.

    `raw` is a path below the folder that `draw` fills. The output must match the pattern `output`.
    """

    draw: Callable[[Path], object]
    right: Counts | str
    output: str = ""
    raw: str = ""
    settings: tuple[str, ...] = ()
    reader: str = "class_folders"


def image(number: int, kind: str = "JPEG", side: int = 16) -> bytes:
    """Return an encoded image that depends only on `number`."""
    coarse = np.random.default_rng(number).integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse.repeat(4, 0).repeat(4, 1)).save(file, kind)
    return file.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write a file, and the folders to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_all(folder: Path, images: Mapping[str, bytes]) -> None:
    """Write files by their names below `folder`."""
    for name, content in images.items():
        write(folder / name, content)


def fill(folder: Path, count: int, name: str = "{:03d}.jpg") -> Path:
    """Write `count` images that no other call writes, and return `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    first = number_of(folder)
    for number in range(count):
        write(folder / name.format(number), image(first + number))
    return folder


def number_of(folder: Path) -> int:
    """Return a number far from those of the other folders of a layout."""
    return zlib.crc32(os.fsencode("/".join(folder.parts[-3:]))) * 1000


def classes(folder: Path, count: int = 12, names: Iterable[str] = PETS) -> Path:
    """Write a folder of images for each name, and return `folder`."""
    for name in names:
        fill(folder / name, count)
    return folder


def sides(raw: Path, **counts: int) -> Path:
    """Write class folders in folders of these names, and return `raw`."""
    for side, count in counts.items():
        classes(raw / side, count)
    return raw


def files(raw: Path, content: bytes, *names: str) -> None:
    """Write the same bytes to each of the names below `raw`."""
    for name in names:
        write(raw / name, content)


def _mac(raw: Path) -> None:
    files(raw, b"\0\5\x16\7" + bytes(100), "__MACOSX/._train", "__MACOSX/train/cat/._000.jpg", ".DS_Store")


def _dogs_and_cats(raw: Path, test: str = "test1") -> None:
    for number, name in enumerate(("cat", "dog")):
        fill(raw / "train", 12, f"{name}.{{}}.jpg")
        for path in (raw / "train").glob(f"{name}.*"):
            path.write_bytes(image(int(path.name.split(".")[1]) + 1000 * number))
    fill(raw / test, 5, "{}.jpg")


def _sessions(raw: Path, straight: int) -> None:
    for name in PETS:
        fill(raw / name, straight)
        fill(raw / name / "2022", 4)
        fill(raw / name / "2023" / "may", 3)


def _copies(raw: Path, source: str, *targets: str) -> None:
    files(raw, (raw / source).read_bytes(), *targets)


def _link(path: Path, target: str | Path) -> None:
    path.symlink_to(target)


def _linked(raw: Path) -> None:
    classes(raw.with_name("elsewhere"))
    for name in PETS:
        _link(raw / name, raw.with_name("elsewhere") / name)


def _kinds(raw: Path) -> None:
    cat = classes(raw) / "cat"
    for number, (name, kind) in enumerate(
        {"png.jpg": "PNG", "webp.jpeg": "WEBP", "UPPER.JPG": "JPEG", "Mixed.Jpeg": "JPEG", "noext": "JPEG"}.items()
    ):
        write(cat / name, image(9000 + number, kind))
    files(cat, b"", "zero.jpg")
    files(cat, b"<!DOCTYPE html>Rate limited", "html.jpg")
    files(cat, image(9100)[:200], "cut.jpg")
    files(cat, b"hello", "notes.txt")
    files(cat, b"\xd0\xcf\x11\xe0", "Thumbs.db", "desktop.ini")


ODD_NAMES = (
    *("50% off", "-dash", "[red]", "trailing ", "it's, a=b", 'say "hi"; $HOME', "new\nline", "#1", "~", "null", "1e5"),
    *("蝶", "🦋", "l" * 200, "Dog", "dog"),
)


def _archive(raw: Path, kind: str) -> None:
    shutil.make_archive(str(raw / "pets"), kind, classes(raw.with_name("packed") / "my pets").parent)


def _hostile(raw: Path) -> None:
    with zipfile.ZipFile(raw / "pets.zip", "w") as packed:
        packed.writestr("cat/1.jpg", image(1))
        packed.writestr("../../escaped.jpg", image(2))


def _linking_tar(raw: Path) -> None:
    with tarfile.open(raw / "pets.tar", "w") as packed:
        info = tarfile.TarInfo("cat/1.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(info)


def _cut_archive(raw: Path) -> None:
    _archive(raw, "zip")
    (raw / "pets.zip").write_bytes((raw / "pets.zip").read_bytes()[:-500])


def _moths(raw: Path) -> None:
    sides(raw, train=12, valid=3, test=4)
    fill(raw / "images to test", 5)
    files(raw, b"a,b\n", "moths.csv", "train/labels.csv")


def _fingers(raw: Path) -> None:
    fill(raw / "train", 12, "a{}_3L.png")
    for number, path in enumerate(sorted(fill(raw / "test", 3, "b{}_0R.png").iterdir())):
        path.write_bytes(image(70 + number, "PNG"))
    files(raw, b"x", "readme.md", "train/old/c_1L.png", "test/Thumbs.db")


def _asl(raw: Path) -> None:
    for name in ("A", "B"):
        fill(raw / "asl_alphabet_train" / "asl_alphabet_train" / name, 6, name + "{}.jpg")
    fill(raw / "asl_alphabet_test", 1, "A_test.jpg")
    files(raw, b"x", "notes.txt", "__MACOSX/._notes.txt")


def _places(raw: Path) -> None:
    mark, train, val = b"\xef\xbb\xbf", [], []
    names = {"airfield": "/a/airfield", "church/outdoor": "/c/church/outdoor"}
    for index, path in enumerate(names.values()):
        fill(raw / f"data_256_standard{path}", 4)
        train += [f"{path}/{number:03d}.jpg {index}" for number in range(3)]  # the fourth is in no list
        val.append(f"v{index}.jpg {index}")
        write(raw / "val_256" / f"v{index}.jpg", image(500 + index))
    categories = "".join(f"{path} {index}\r\n" for index, path in enumerate(names.values()))
    write(raw / "categories_places365.txt", mark + categories.encode() + b"\r\n")
    write(raw / "places365_train_standard.txt", mark + "\n".join(train).encode() + b"\n\n")
    write(raw / "places365_val.txt", mark + "\n".join(val).encode() + b"\n \n")


def _petals(raw: Path) -> None:
    for side, label in (("train", 0), ("val", 1), ("test", None)):
        records = []
        for number in range(2):
            values: dict[str, bytes | int] = {
                "image": image(number_of(Path(side)) + number),
                "id": f"{side}{number}".encode(),
            }
            records.append(tfrecord.example(values if label is None else {**values, "class": label}))
        folder = raw / "tfrecords-jpeg-224x224" / side
        folder.mkdir(parents=True)
        tfrecord.write(folder / "00-224x224-2.tfrec", records)
    write(raw / "test_labels.csv", b"\xef\xbb\xbfid,class\r\ntest0,0\r\ntest1,1\r\n\r\n")
    write(raw / "classes.txt", b"\xef\xbb\xbf0\trose\n1\ttulip \n\n")
    write(raw / "sample_submission.csv", b"id,label\n")


def _per_class(train: int, test: int = 0) -> Counts:
    return dict.fromkeys(PETS, (train, test))


def _then(*steps: Callable[[Path], object]) -> Callable[[Path], None]:
    def draw(raw: Path) -> None:
        for step in steps:
            step(raw)

    return draw


LAYOUTS: dict[str, Layout] = {
    "class folders": Layout(classes, _per_class(12)),
    "train, val, test": Layout(lambda raw: sides(raw, train=12, val=3, test=4), _per_class(15, 4)),
    "training, validation, testing": Layout(
        lambda raw: sides(raw, training=12, validation=3, testing=4), _per_class(15, 4)
    ),
    "Train, Test": Layout(lambda raw: sides(raw, Train=12, Test=4), _per_class(12, 4)),
    "train, valid": Layout(lambda raw: sides(raw, train=12, valid=4), _per_class(12, 4)),
    "training_set, test_set": Layout(lambda raw: sides(raw, training_set=12, test_set=4), _per_class(12, 4)),
    "one folder around all": Layout(lambda raw: sides(raw / "Dataset", Train=12, Test=4), "or give .*/Dataset if"),
    "one folder around all, given": Layout(
        lambda raw: sides(raw / "Dataset", Train=12, Test=4), _per_class(12, 4), raw="Dataset"
    ),
    "seg_train/seg_train, seg_test, seg_pred": Layout(
        _then(
            lambda raw: classes(raw / "seg_train" / "seg_train"),
            lambda raw: classes(raw / "seg_test" / "seg_test", 4),
            lambda raw: fill(raw / "seg_pred" / "seg_pred", 5),
        ),
        _per_class(12, 4),
        "not read: 5\n *seg_pred/ \\(5 files\\)",
    ),
    "images to test beside sides": Layout(_moths, _per_class(15, 4), "images to test/ \\(5 files\\)"),
    "a Mac's archive around sides": Layout(
        _then(_mac, lambda raw: sides(raw, train=12, test=4)), _per_class(12, 4), "system's own: 3"
    ),
    "a Mac's archive around classes": Layout(_then(classes, _mac), _per_class(12), "system's own: 3"),
    "flat test images": Layout(
        _then(lambda raw: classes(raw / "train"), lambda raw: fill(raw / "test", 5)),
        _per_class(12),
        "test/ is not read",
    ),
    "flat test images beside valid": Layout(
        _then(lambda raw: sides(raw, train=12, valid=4), lambda raw: fill(raw / "test", 5)), _per_class(12, 4)
    ),
    "an empty test folder": Layout(
        _then(lambda raw: classes(raw / "train"), lambda raw: (raw / "test").mkdir()), _per_class(12)
    ),
    "dogs against cats": Layout(
        _dogs_and_cats, r"no folder for each class, but cat\.0\.jpg.*\(cat, dog\).*labels=names"
    ),
    "dogs against cats, test": Layout(lambda raw: _dogs_and_cats(raw, "test"), "labels=names"),
    "dogs against cats, by name": Layout(
        _dogs_and_cats, {"cat": (12, 0), "dog": (12, 0)}, settings=("+dataset.reader_options.labels=names",)
    ),
    "flat names that end in a class": Layout(lambda raw: fill(raw, 6, "a{}_3L.jpg"), "not laid out as class folders"),
    "flat names that end in a class, by a pattern": Layout(
        lambda raw: write_all(
            raw, {f"a{number}_{('3L', '0R')[number % 2]}.jpg": image(number) for number in range(24)}
        ),
        {"0R": (12, 0), "3L": (12, 0)},
        settings=(r"+dataset.reader_options.labels='(\d[LR])$'",),
    ),
    "sessions below classes": Layout(lambda raw: _sessions(raw, 5), _per_class(12)),
    "sessions only": Layout(lambda raw: _sessions(raw, 0), _per_class(7)),
    "notebook checkpoints": Layout(
        _then(classes, lambda raw: classes(raw, 2, ("cat/.ipynb_checkpoints", ".ipynb_checkpoints"))),
        _per_class(12),
        "own: 4",
    ),
    "an empty class": Layout(_then(classes, lambda raw: (raw / "yak").mkdir()), "/yak holds no image, nothing"),
    "a class without one image": Layout(
        _then(classes, lambda raw: files(raw, b"<html>404", *(f"yak/{n}.jpg" for n in range(5)))),
        r"class 'yak' has no image to train on.*5 files.*yak/0\.jpg: does not decode",
    ),
    "a class of one image": Layout(
        _then(classes, lambda raw: fill(raw / "yak", 1)), {**_per_class(12), "yak": (1, 0)}, "fewer than 10.*'yak' 1"
    ),
    "one image a class": Layout(lambda raw: classes(raw, 1), _per_class(1), "fewer than 10 .* 3 classes"),
    "one class": Layout(lambda raw: fill(raw / "cat", 12), "at least two"),
    "a class in test only": Layout(
        _then(lambda raw: sides(raw, train=12, test=4), lambda raw: fill(raw / "test" / "yak", 2)),
        _per_class(12, 4),
        "unknown label: 2",
    ),
    "a class in train only": Layout(
        _then(lambda raw: sides(raw, train=12, test=4), lambda raw: fill(raw / "train" / "yak", 11)),
        {**_per_class(12, 4), "yak": (11, 0)},
    ),
    "copies on both sides": Layout(
        _then(
            lambda raw: sides(raw, train=12, test=4),
            lambda raw: _copies(raw, "test/cat/000.jpg", "train/cat/a.jpg", "train/dog/b.jpg"),
        ),
        _per_class(12, 4),
        "also in test: 2",
    ),
    "copies with other labels": Layout(
        _then(classes, lambda raw: _copies(raw, "cat/000.jpg", "dog/a.jpg")),
        {"cat": (11, 0), "dog": (12, 0), "owl": (12, 0)},
        "contradicting labels: 2",
    ),
    "links to classes": Layout(_linked, _per_class(12)),
    "a link round in a circle": Layout(
        _then(classes, lambda raw: _link(raw / "cat" / "up", "..")), "folder that contains it"
    ),
    "a link to itself": Layout(_then(classes, lambda raw: _link(raw / "cat" / "me", "me")), "is a link to itself"),
    "a link that leads nowhere": Layout(
        _then(classes, lambda raw: _link(raw / "cat" / "gone.jpg", "nothing.jpg")), r"gone\.jpg.* broken link"
    ),
    "a pipe": Layout(_then(classes, lambda raw: os.mkfifo(raw / "cat" / "pipe.jpg")), _per_class(12), "not a file: 1"),
    "suffixes that lie": Layout(_kinds, {"cat": (17, 0), "dog": (12, 0), "owl": (12, 0)}, "does not decode: 4"),
    "odd names of classes": Layout(
        lambda raw: classes(raw, 4, ODD_NAMES), dict.fromkeys(ODD_NAMES, (4, 0)), "16 classes, '#1' 4"
    ),
    "odd names of files": Layout(
        _then(
            classes,
            lambda raw: files(
                raw, b"nope", *(f"cat/{name}.jpg" for name in ("bad[red]", "line\nbreak", "=cmd", " x "))
            ),
            lambda raw: write_all(raw / "cat", {"[1].jpg": image(1), "ü" * 100 + ".jpg": image(2), "-x.jpg": image(3)}),
        ),
        {"cat": (15, 0), "dog": (12, 0), "owl": (12, 0)},
        r"bad\[red\]\.jpg",
    ),
    "one name in two Unicode forms": Layout(
        lambda raw: classes(raw, 6, ("caf\u00e9", "cafe\u0301", "tea")),
        {"caf\u00e9": (12, 0), "tea": (6, 0)},
        "two Unicode",
    ),
    "a name that is not UTF-8": Layout(
        _then(classes, lambda raw: fill(raw / os.fsdecode(b"caf\xe9"), 3)), "is not UTF-8. Rename it"
    ),
    "lists and images beside the classes": Layout(
        _then(
            classes,
            lambda raw: files(raw, b"a,b", "labels.csv", "IMG_1.jpg"),
            lambda raw: files(raw, b"a,b", "cat/a.csv"),
        ),
        _per_class(12),
        "not read: 2\n *IMG_1.jpg\n *labels.csv",
    ),
    "a class called train": Layout(
        lambda raw: classes(raw, 12, ("train", "bus", "car")), dict.fromkeys(("bus", "car", "train"), (12, 0))
    ),
    "a train folder of sessions beside a class": Layout(
        lambda raw: classes(raw, 12, ("train/2022", "train/2023", "bus")), "can be read in two ways"
    ),
    "an empty folder": Layout(lambda raw: None, "holds no files"),
    "no folder": Layout(lambda raw: None, "is not a folder, a zip or a tar", raw="nowhere"),
    "a text file": Layout(lambda raw: files(raw, b"hello", "a.txt"), "is not a folder, a zip or a tar", raw="a.txt"),
    "a zip": Layout(lambda raw: _archive(raw, "zip"), _per_class(12), raw="pets.zip"),
    "a tar.gz": Layout(lambda raw: _archive(raw, "gztar"), _per_class(12), raw="pets.tar.gz"),
    "a zip that leads outside": Layout(_hostile, "leads out of the folder", raw="pets.zip"),
    "a tar with a link": Layout(_linking_tar, "is a link, which is not unpacked", raw="pets.tar"),
    "a zip that is cut off": Layout(_cut_archive, "cannot be unpacked", raw="pets.zip"),
    "moths and more": Layout(_moths, _per_class(15, 4), "labels.csv", reader="moths"),
    "fingers and more": Layout(_fingers, {"3L": (12, 0), "0R": (0, 3)}, "train/old/ .1 file", reader="fingers"),
    "signs and more": Layout(_asl, {"A": (6, 1), "B": (6, 0)}, "27 classes", reader="asl_alphabet"),
    "scenes with marks and empty lines": Layout(
        _places, {"airfield": (3, 1), "church/outdoor": (3, 1)}, "not read: 2", reader="places365"
    ),
    "petals with marks and empty lines": Layout(
        _petals, {"rose": (2, 1), "tulip ": (2, 1)}, "sample_submission", reader="petals"
    ),
}
