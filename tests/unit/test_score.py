"""`make score`: every image is in the table once, whatever happens, with the answer that `make predict` gives."""

import importlib.util
import io
import json
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from handlers.errors import ArtifactError
from handlers.requests.labels import Labels
from handlers.run_folder import RunFolder
from pipeline import score
from pipeline.score import INSTALL, ScoreError
from pipeline.scoring import listing, table
from pipeline.scoring.listing import ImageFile, ListingError
from serving import predict
from serving.store import model_config
from serving.store.model_store import ArchiveError
from tests.unit.archived_run import write_servable
from tests.unit.test_classifier import png
from tests.until import until
from training.cluster import ClusterError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason=f"pyarrow is missing: {INSTALL}")

ROOT = Path(__file__).parents[2]
IMAGES = 30


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder: a run `small`, and `photos` with images in two folders, one of them broken."""
    monkeypatch.chdir(tmp_path)
    write_servable(tmp_path / "runs" / "small")
    for number in range(IMAGES):
        folder = tmp_path / "photos" / f"day {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(number))
    (tmp_path / "photos" / "day 0" / "broken.png").write_bytes(png(0)[:60])
    (tmp_path / "photos" / ".hidden").mkdir()
    (tmp_path / "photos" / ".hidden" / "0.png").write_bytes(png(0))
    return tmp_path


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a table, in the order of their images."""
    import pyarrow.parquet

    document: list[dict[str, Any]] = pyarrow.parquet.read_table(folder).to_pylist()
    return sorted(document, key=lambda row: str(row["image"]))


def test_each_image_has_one_row_with_the_answer_of_predict(home: Path) -> None:
    scores = score.score("small", "photos", processes=2, rows=8)
    assert (scores.images, scores.errors, scores.answered_now) == (IMAGES + 1, 1, IMAGES + 1)
    table_rows = rows(scores.folder)
    paths = sorted((home / "photos").glob("day*/*"))
    assert [row["image"] for row in table_rows] == [str(path.relative_to(home)) for path in paths]
    offline = predict.offline(RunFolder.of("small").model, paths, model_config.DEFAULTS["handler"])
    for row, answer in zip(table_rows, offline, strict=True):
        if isinstance(answer, Labels):
            assert dict(row["labels"]) == pytest.approx(answer, abs=1e-5)
            assert row["label"] == max(answer, key=lambda name: answer[name]) and row["error"] is None
        else:
            assert row["error"] == answer and row["label"] is None and row["labels"] is None
    assert {(row["model"], row["version"]) for row in table_rows} == {("small", "")}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.score", "small", *arguments]


def test_a_killed_command_continues_with_the_parts_that_are_missing(home: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = (
        "import sys; from pipeline import score; score.score('small', 'photos', processes=1, rows=2); sys.exit('ended')"
    )
    folder = home / "scores" / "small" / "photos"
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE) as process:
        until(lambda: any(folder.glob("part-*")), 60)
        process.kill()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    last = sorted(before)[-1]
    last.write_bytes(last.read_bytes()[:-20])  # as a power failure may leave it
    scores = score.score("small", "photos", processes=1, rows=2)
    assert 0 < scores.answered_now < scores.images == IMAGES + 1
    assert scores.answered_now == IMAGES + 1 - 2 * (len(before) - 1)
    names = [row["image"] for row in rows(folder)]
    assert len(names) == len(set(names)) == IMAGES + 1
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path != last)
    undisturbed = score.score("small", "photos", out=home / "again", rows=2)
    assert rows(undisturbed.folder) == rows(folder)
    assert score.score("small", "photos", rows=2).answered_now == 0


def test_a_list_a_tar_shard_and_a_bucket_give_the_same_answers(home: Path) -> None:
    paths = [path for path in sorted((home / "photos").glob("day*/*")) if path.name != "broken.png"]
    (home / "photos" / "list.txt").write_text("".join(f"{path.relative_to(home / 'photos')}\n" for path in paths))
    with tarfile.open(home / "shard.tar", "w") as tar:
        for number, path in enumerate(paths):
            tar.add(path, f"{number:03d}.png")
            label = tarfile.TarInfo(f"{number:03d}.cls")
            label.size = 1
            tar.addfile(label, io.BytesIO(b"1"))
    (home / "photos" / "list.txt").rename(home / "list.txt")
    (home / "list.txt").write_text("".join(f"{path.relative_to(home)}\n" for path in paths))
    (home / "bucket").mkdir()
    for path in paths:
        (home / "bucket" / path.name).write_bytes(path.read_bytes())
    sources = ("list.txt", "shard.tar", f"file://{home}/bucket")
    answers = {source: rows(score.score("small", source, processes=1).folder) for source in sources}
    expected = sorted(row["probability"] for row in answers["list.txt"])
    for source, table_rows in answers.items():
        assert sorted(row["probability"] for row in table_rows) == pytest.approx(expected, abs=1e-5), source
        assert all(row["error"] is None for row in table_rows) and len(table_rows) == IMAGES
    assert answers["shard.tar"][0]["image"] == "shard.tar/000.png"
    assert answers[f"file://{home}/bucket"][0]["image"] == f"file://{home}/bucket/0.png"


def test_a_file_that_is_gone_or_no_image_has_a_row_with_its_error(home: Path) -> None:
    (home / "notes.md").write_text("no image")
    (home / "list.txt").write_text("gone.png\n\nnotes.md\nphotos\nphotos/day 0/0.png\r\n")
    table_rows = {row["image"]: row for row in rows(score.score("small", "list.txt").folder)}
    assert table_rows["gone.png"]["error"] == "cannot be read: No such file or directory"
    assert table_rows["photos"]["error"] == "cannot be read: Is a directory"
    assert "image" in table_rows["notes.md"]["error"]
    assert table_rows["photos/day 0/0.png"]["label"]


def test_names_of_any_bytes_are_text_in_the_table(home: Path) -> None:
    (home / "odd").mkdir()
    for name in (b"a\nb.png", b"\xff.png", "ü 🦋.png".encode()):
        (Path(os.fsdecode(os.fsencode(home / "odd") + b"/" + name))).write_bytes(png(1))
    names = {row["image"] for row in rows(score.score("small", "odd").folder)}
    assert names == {"odd/a\nb.png", "odd/\\xff.png", "odd/ü 🦋.png"}


def test_a_folder_with_another_table_is_left_alone(home: Path) -> None:
    folder = score.score("small", "photos", out=home / "table").folder
    files = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert score.score("small", "./photos/", out=folder).answered_now == 0, "the same folder, written in another way"
    about = json.loads((folder / score.ABOUT).read_text())
    (folder / score.ABOUT).write_text(json.dumps({**about, "source": "photos//"}))
    assert score.score("small", "photos", out=folder).answered_now == 0, "as an earlier release wrote it"
    files[folder / score.ABOUT] = (folder / score.ABOUT).read_bytes()
    names = {"gs://": "gs://", "gs://b/c/": "gs://b/c", "memory://x": "memory://x", "./a/": "a", "/": "/"}
    assert {name: listing.normal(name) for name in names} == names
    with pytest.raises(ClusterError, match="is no cluster"):
        score.score("small", "photos", out=home / "none", cluster="lokal")
    assert not (home / "none").exists()
    (home / "list.txt").write_text("photos/day 0/0.png\n")
    with pytest.raises(ScoreError, match=r"holds a table with another source: delete it, or name another folder"):
        score.score("small", "list.txt", out=folder)
    with pytest.raises(ScoreError, match="another rows"):
        score.score("small", "photos", out=folder, rows=7)
    (folder / score.ABOUT).unlink()
    with pytest.raises(ScoreError, match="of another origin"):
        score.score("small", "list.txt", out=folder)
    with FileLock(folder / score.LOCK), pytest.raises(ScoreError, match="another command writes"):
        score.score("small", "photos", out=folder)
    assert {path: path.read_bytes() for path in files if path.exists()} == {
        path: content for path, content in files.items() if path.name != score.ABOUT
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere does not exist: name a folder"),
        ("empty", "empty names no file: give a folder"),
        ("photos.tar.gz", "is compressed, so that no member can be read by itself"),
        ("damaged.tar", "damaged.tar cannot be listed"),
        ("teleport://bucket/photos", "cannot be opened"),
    ],
)
def test_a_source_without_images_is_named(home: Path, source: str, message: str) -> None:
    (home / "empty").mkdir()
    (home / "photos.tar.gz").write_bytes(b"\x1f\x8b")
    (home / "damaged.tar").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(ListingError, match=message):
        score.score("small", source)
    assert not list((home / "scores").rglob("part-*")) and not list((home / "scores").rglob(score.ABOUT))


def test_an_unknown_model_and_a_damaged_one_are_named(home: Path) -> None:
    with pytest.raises(ArchiveError, match="nobody"):
        score.score("nobody", "photos")
    weights = home / "runs" / "small" / "model.pt"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"model\.pt"):
        score.score("small", "photos")


def test_a_list_is_read_back_as_it_was_written(home: Path) -> None:
    count = listing.write("photos", home / "list.jsonl")
    parts = list(listing.read(home / "list.jsonl", 8))
    assert [len(part) for part in parts] == [8, 8, 8, count - 24]
    images = [ImageFile.parse(line) for part in parts for line in part]
    assert images == list(listing.images_of("photos"))
    assert ImageFile.parse(ImageFile("a.tar", "b.png", 512, 9).line()) == ImageFile("a.tar", "b.png", 512, 9)


def test_a_link_to_a_parent_is_followed_once(home: Path) -> None:
    (home / "photos" / "loop").symlink_to(home / "photos")
    assert listing.write("photos", home / "list.jsonl") == IMAGES + 1


def test_a_part_of_another_list_does_not_count(home: Path) -> None:
    row = dict.fromkeys(table.COLUMNS) | {"image": "a.png", "error": "broken"}
    path = table.part_of(home / "t", 0)
    assert table.write(path, [row], "digest") == 1
    assert table.errors_of(path, "digest") == 1
    assert table.errors_of(path, "another") is None and table.errors_of(path.with_name("none"), "digest") is None


def test_the_command_says_where_the_table_is(home: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command("photos"), env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        f"scores/small/photos: {IMAGES + 1} images, 1 without an answer (column error has the reason), in "
    )
    refused = subprocess.run(command("nowhere"), env=environment, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 1 and refused.stderr.startswith("error: nowhere does not exist")
    assert refused.stderr.count("\n") == 1


def test_a_large_member_and_a_large_file_are_cut_at_the_limit(home: Path) -> None:
    body = random.Random(0).randbytes(1000)
    (home / "large.bin").write_bytes(body)
    assert ImageFile("large.bin").read(100) == body[:101]
    assert ImageFile("large.bin", "a", 10, 50).read(100) == body[10:60]
