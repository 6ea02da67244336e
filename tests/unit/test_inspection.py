"""An inspection finds swapped labels, copies and poor images, changes nothing, and what it lists can be left out."""

import csv
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from rich.console import Console

from tests.unit.class_folders import write
from training.data import exclusion, prepare
from training.data.index import spreadsheet_cell
from training.data.records import DatasetError
from training.inspection import __main__ as inspection
from training.inspection import copies, labels
from training.inspection.copies import Pair

ROOT = Path(__file__).parents[2]
SPECIES = ("ATLAS MOTH", "LUNA MOTH", "SIXSPOT BURNET MOTH")
CLASSES = ("<b>&a", "blue", "wide")  # names that a page has to escape
TRAIN, TEST = 20, 4  # images of a class
SETTINGS = ("dataset=class_folders", "transfer.image_size=128")
QUIET = Console(quiet=True)


def pictures(real: Path | None, number: int, count: int) -> list[Image.Image]:
    """Return images of a class: of a species if real ones are at hand, else blocks of noise in one tint."""
    if real is not None:
        paths = sorted((real / "moths" / "train" / SPECIES[number]).iterdir())[:count]
        return [Image.open(path).convert("RGB") for path in paths]
    random = np.random.default_rng(number)
    blocks = random.integers(0, 150, (count, 16, 16, 3), dtype=np.uint8)
    blocks[..., number] += 100
    return [Image.fromarray(block).resize((224, 224), Image.Resampling.NEAREST) for block in blocks]


def save(image: Image.Image, path: Path, quality: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=quality)


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(f"{path} {path.stat().st_mtime_ns}".encode() + (path.read_bytes() if path.is_file() else b""))
    return total.hexdigest()


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, real_data: Path | None) -> Path:
    """Write images of three classes, some of them spoiled, then prepare and inspect them in this folder."""
    root = tmp_path_factory.mktemp("project")
    raw = root / "raw"
    images = [pictures(real_data, number, TRAIN + TEST + 4) for number in range(len(CLASSES))]
    for name, drawn in zip(CLASSES, images, strict=True):
        for number, image in enumerate(drawn[: TRAIN + TEST]):
            side = "train" if number < TRAIN else "test"
            save(image, raw / side / name / f"{number:02d}.jpg")
    save(images[0][-1], raw / "train/blue/swapped.jpg")
    save(images[2][-1], raw / "train/blue/=swapped.jpg")
    first = images[1][0]
    save(first.resize((150, 150)), raw / "test/blue/again.jpg", quality=40)
    save(images[2][1].transpose(Image.Transpose.FLIP_LEFT_RIGHT), raw / "test/wide/mirrored.png")
    save(images[1][-2].filter(ImageFilter.GaussianBlur(9)), raw / "train/blue/blurred.jpg")
    save(images[1][-3].point(lambda value: value // 8), raw / "train/blue/dark.png")
    save(images[1][-4].resize((20, 24)), raw / "train/blue/tiny.png")
    save(images[2][-2].resize((400, 90)), raw / "train/wide/long.jpg")
    before = digest(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        prepare.run([*SETTINGS, "name=set", "raw=raw"], QUIET)
        assert inspection.main([*SETTINGS, "name=set"]) == 0
    assert digest(raw) == before
    return root


@pytest.fixture(autouse=True)
def _in_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def test_swapped_labels_are_the_first_suspects_with_their_class() -> None:
    suspects = rows(Path("data/inspect/set/labels.csv"))
    found = {row["path"]: (row["class"], row["suggested"]) for row in suspects[:2]}
    assert found == {"train/blue/swapped.jpg": ("blue", "<b>&a"), "train/blue/=swapped.jpg": ("blue", "wide")}
    assert all(row["issue"] == "label" and float(row["score"]) < 0.5 for row in suspects)
    assert len(suspects) <= 8


def test_copies_across_the_split_are_named_and_others_are_not() -> None:
    pairs = {(row["path"], row["other"]): row for row in rows(Path("data/inspect/set/issues.csv")) if row["other"]}
    assert set(pairs) == {
        ("train/blue/00.jpg", "test/blue/again.jpg"),
        ("train/wide/01.jpg", "test/wide/mirrored.png"),
    }
    issues = {row["path"]: row["issue"] for row in pairs.values()}
    assert issues["train/blue/00.jpg"] == "copy across splits"
    assert issues["train/wide/01.jpg"] == "mirrored copy across splits"


def test_poor_images_are_named_and_others_are_not() -> None:
    poor = [(row["issue"], row["path"]) for row in rows(Path("data/inspect/set/issues.csv")) if not row["other"]]
    assert ("blurred", "train/blue/blurred.jpg") in poor
    assert ("dark", "train/blue/dark.png") in poor
    assert ("tiny", "train/blue/tiny.png") in poor
    assert ("odd shape", "train/wide/long.jpg") in poor
    assert len(poor) <= 6  # an enlarged image may be blurred, too


def test_the_page_is_one_file_that_loads_nothing_and_escapes_names() -> None:
    page = Path("data/inspect/set/index.html").read_text(encoding="utf-8")
    sources = re.findall(r'<img src="([^"]*)"', page)
    assert len(sources) >= 20 and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not re.search(r'(src|href)="(?!data:|#)|url\(|@import|<script|https?:', page)
    assert "&lt;b&gt;&amp;a" in page and "<b>&a" not in page
    assert "Copies across splits" in page and "=swapped.jpg" in page
    assert len(page) < 2_000_000


def test_rows_of_an_edited_file_are_left_out_with_lineage() -> None:
    document = json.loads(Path("data/processed/set/dataset.json").read_text())
    assert "excluded" not in document
    listed = Path("data/inspect/set/labels.csv").read_text(encoding="utf-8").splitlines()
    # As a spreadsheet saves it: a mark of the byte order, semicolons, other line ends.
    edited = "\r\n".join(line.replace(",", ";") for line in listed[:3])
    Path("edited.csv").write_text(f"{edited}\r\ngone.jpg\r\n", encoding="utf-8-sig")
    command = [*SETTINGS, "name=less", "raw=raw"]
    assert prepare.main([*command, "exclude=edited.csv"]) == 0
    less = json.loads(Path("data/processed/less/dataset.json").read_text())
    assert less["images"] == document["images"] - 2 and less["left_out"]["excluded"] == 2
    assert less["excluded"]["ids"] == 3 and len(less["excluded"]["sha256"]) == 64
    assert less["key"] != document["key"] and less["fingerprint"] != document["fingerprint"]
    assert less["made"] == document["made"]  # the cached features stay
    assert "1 of 3 images to exclude are not in this data set" in less["remarks"]
    names = {row["id"].removeprefix("'"): row["reason"] for row in rows(Path("data/processed/less/left_out.csv"))}
    assert names == {"train/blue/swapped.jpg": "excluded", "train/blue/=swapped.jpg": "excluded"}
    Path("edited.csv").write_text("path\ntrain/blue/=swapped.jpg\n", encoding="utf-8")
    assert prepare.main([*command, "exclude=edited.csv"]) == 0
    assert json.loads(Path("data/processed/less/dataset.json").read_text())["key"] != less["key"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "exclude=bad.csv: No such file or directory; give a CSV file with a column 'path'"),
        ("name,other\na,b\n", "exclude=bad.csv: no column 'path' in its first line"),
        ("path\nelsewhere.jpg\n", "none of the 1 images in the file of exclude= is in this data set, first 'elsew"),
    ],
)
def test_a_wrong_exclusion_is_one_line(
    text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write(tmp_path / "raw", 2)
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("bad.csv").write_text(text)
    assert prepare.main(["dataset=class_folders", "name=x", f"raw={raw}", "exclude=bad.csv"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error and not (tmp_path / "data/processed/x").exists()


@pytest.mark.parametrize("name", ["=a.jpg", "plain, b.jpg", "-x", "'quoted", "ü.png", 'a"b'])
def test_an_id_survives_the_way_through_a_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path"], [spreadsheet_cell(name)]])
    assert exclusion.read(path) == {name}


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_bytes("path\nä.jpg\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="not UTF-8; save it as CSV in UTF-8"):
        exclusion.read(path)


def test_the_command_takes_two_classes_of_three_images(tmp_path: Path) -> None:
    write(tmp_path / "few", 3, classes=("cat", "dog"))
    command = [sys.executable, "-m", "pipeline.inspect", "--raw", "few", "transfer.image_size=64"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "data/inspect/few/index.html" in done.stdout
    for name in ("index.html", "labels.csv", "issues.csv"):
        assert (tmp_path / "data/inspect/few" / name).is_file()
    assert not [row for row in rows(tmp_path / "data/inspect/few/issues.csv") if row["other"]]


def test_what_is_missing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspection.main([*SETTINGS, "name=nothing"]) == 1
    assert "nothing: no prepared data set; make it" in capsys.readouterr().err
    raw = Path("raw").rename(tmp_path / "moved")
    try:
        assert inspection.main([*SETTINGS, "name=set"]) == 1
    finally:
        raw.rename("raw")
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "No such file or directory" in error


def test_a_label_is_suspected_as_often_as_the_confident_joint_counts() -> None:
    probabilities = np.full((40, 2), 0.1, np.float32)
    truth = np.arange(40) % 2
    probabilities[np.arange(40), truth] = 0.9
    wrong = truth.copy()
    wrong[[4, 9]] = 1 - wrong[[4, 9]]
    probabilities[4, truth[4]], probabilities[4, wrong[4]] = 0.99, 0.01
    suspects = labels.suspects(probabilities, wrong)
    assert suspects.rows.tolist()[:2] == [4, 9] and len(suspects.rows) <= 3
    assert suspects.suggested.tolist()[:2] == [truth[4], truth[9]]
    assert not len(labels.suspects(probabilities, truth).rows)


def test_a_class_of_one_image_is_neither_suspected_nor_suggested() -> None:
    probabilities = np.array([[0.8, 0.15, 0.05]] * 4 + [[0.15, 0.8, 0.05]] * 4 + [[0.9, 0.05, 0.05]], np.float32)
    probabilities[3] = [0.1, 0.85, 0.05]
    suspects = labels.suspects(probabilities, np.array([0] * 4 + [1] * 4 + [2]))
    assert (suspects.rows.tolist(), suspects.suggested.tolist()) == ([3], [1])


def test_folds_hold_a_tenth_of_each_class_and_groups_whole() -> None:
    random = np.random.default_rng(0)
    classes = np.repeat(np.arange(3), [100, 60, 3])
    groups = np.arange(len(classes))
    groups[:90] = groups[:90] // 3
    order = random.permutation(len(classes))
    classes, groups = classes[order], groups[order]
    parts = labels.folds(classes, groups, 0)
    for number in range(2):
        counts = np.bincount(parts[classes == number], minlength=labels.FOLDS)
        assert counts.min() >= counts.mean() - 3 and counts.max() <= counts.mean() + 3
    assert len(set(parts[classes == 2])) == 3
    shared = [len(set(parts[groups == group])) for group in np.unique(groups)]
    assert max(shared) == 1
    assert not np.array_equal(parts, labels.folds(classes, groups, 1))


def unit(values: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / lengths, np.float32)


@pytest.mark.parametrize("block", [(7, 5), (1024, 8192)])
def test_pairs_are_those_of_a_plain_search(block: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "ROWS", block[0])
    monkeypatch.setattr(copies, "COLUMNS", block[1])
    random = np.random.default_rng(0)
    signatures, features = unit(random.normal(size=(60, 64))), unit(random.normal(size=(60, 32)))
    sides = random.permutation(np.arange(60) % 3)
    signatures[31] = signatures[8]
    signatures[50] = signatures[31]
    flips = np.tile(np.where(np.arange(8) % 2, -1.0, 1.0), 8)
    signatures[20] = signatures[40] * flips
    result = {(pair.row, pair.other): pair.kind for pair in copies.pairs(signatures, features, sides, QUIET)}
    first, *later = sorted((8, 31, 50), key=lambda row: (sides[row], row))
    expected = {(later[0], first): "copy"}
    expected[later[1], min((first, later[0]), key=lambda row: (sides[row] == sides[later[1]], row))] = "copy"
    low, high = sorted((20, 40), key=lambda row: (sides[row], row))
    expected[high, low] = "mirrored copy"
    assert result == expected


def test_an_image_on_another_side_is_named_before_one_on_its_own() -> None:
    signatures, features = unit(np.ones((3, 64))), unit(np.eye(3, 8) + 1)
    signatures[0, 0] += 0.02  # a little less similar
    result = copies.pairs(unit(signatures), features, np.array([0, 1, 1]), QUIET)
    assert [(pair.row, pair.other) for pair in result] == [(1, 0), (2, 0)]


def test_groups_are_connected_pairs() -> None:
    numbers = copies.groups([Pair(3, 1, "copy", 1.0), Pair(5, 3, "copy", 1.0), Pair(4, 0, "copy", 1.0)], 6)
    assert len({numbers[1], numbers[3], numbers[5]}) == 1 and numbers[4] == numbers[0]
    assert len(set(numbers.tolist())) == 3
