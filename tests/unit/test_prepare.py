import csv
import dataclasses
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from handlers.images.decoding import decode
from handlers.images.limits import Limits
from handlers.preprocessing import Preprocess
from handlers.tolerances import PIXELS
from synthetic import fingers
from synthetic.encoding import jpeg as encode_jpeg
from tests.unit.class_folders import CLASSES, jpeg, write
from training.cards import card
from training.configuration import compose
from training.data import prepare as module
from training.data.prepare import main, prepare, recipe_from
from training.data.recipe import Recipe, listing
from training.data.records import DRAWN, DatasetError
from training.data.store import PreparedDataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "processed" / "pets"


def recipe(raw: Path, **changes: object) -> Recipe:
    plain = Recipe(name="pets", reader="class_folders", raw=raw, image_size=16)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def left_out(folder: Path) -> dict[str, str]:
    with open(folder / "left_out.csv", newline="", encoding="utf-8") as file:
        return {line["id"]: line["reason"] for line in csv.DictReader(file)}


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("colour", ["rgb", "grey"])
def test_pixels_are_those_that_serving_sees(tmp_path: Path, folder: Path, resize: str, colour: str) -> None:
    prepare(recipe(write(tmp_path / "raw", 3, 1), resize=resize, colour=colour, crop_fraction=0.8), folder)
    dataset = PreparedDataset.open(folder)
    spec = recipe(tmp_path, resize=resize, colour=colour, crop_fraction=0.8).preprocess()
    assert dataset.images.shape == (12, spec.channels, 16, 16)
    for row in range(len(dataset)):
        record = dataset.record(row)
        served = Preprocess(spec).resize(decode(record.read(dataset.raw), colour=spec.colour))
        assert torch.equal(torch.from_numpy(np.array(dataset.images[row])), served)
        assert dataset.classes[dataset.labels[row]] == record.label


def test_the_file_that_describes_drawn_images_is_not_left_out(tmp_path: Path, folder: Path) -> None:
    raw = tmp_path / "raw"
    fingers.generate(raw, images_per_class=4)
    drawn = Recipe(name="drawn", reader="fingers", raw=raw, image_size=16)
    prepare(drawn, folder)
    assert (raw / DRAWN).is_file() and PreparedDataset.open(folder).document["left_out"] == {}
    (raw / DRAWN).write_text("{}")  # a file of the user's with that name is named
    prepare(drawn, tmp_path / "again")
    assert left_out(tmp_path / "again") == {DRAWN: "not read"}


def test_large_photographs_are_decoded_at_a_part_of_their_size_as_in_serving(tmp_path: Path, folder: Path) -> None:
    raw, path = write(tmp_path / "raw", 3, 1), "train/cat/photo.jpg"
    data = encode_jpeg(card(400, 300), 90)
    (raw / path).write_bytes(data)
    prepare(recipe(raw), folder)
    dataset, preprocess = PreparedDataset.open(folder), Preprocess(recipe(raw).preprocess())
    sizes = (preprocess.shortest_side, None)
    served, whole = (preprocess.resize(decode(data, smallest=smallest)).numpy() for smallest in sizes)
    assert np.abs(served.astype(float) - whole).mean() > PIXELS
    (row,) = (row for row in range(len(dataset)) if dataset.record(row).path == path)
    assert np.array_equal(dataset.images[row], served)


def test_the_limits_of_an_image_can_be_raised(tmp_path: Path, folder: Path) -> None:
    raw = write(tmp_path / "raw", 3, 1)
    large = Image.new("RGB", (200, 100))
    large.save(raw / "train" / "cat" / "large.png")
    prepare(recipe(raw, max_pixels=19_999), folder)
    assert left_out(folder) == {"train/cat/large.png": "does not decode"}
    prepare(recipe(raw, max_pixels=20_000), folder)
    assert not left_out(folder) and len(PreparedDataset.open(folder)) == 13
    config = compose([f"raw={raw}", "dataset.max_pixels=120000000", "dataset.max_bytes=60000000"])
    assert recipe_from(config).limits == Limits(max_pixels=120_000_000, max_bytes=60_000_000)
    for wrong in (0, -1, 1.5, "many"):
        with pytest.raises(DatasetError, match=r"dataset.max_pixels is .*: set it to a whole number of at least 1"):
            recipe(raw, max_pixels=wrong)


def test_what_cannot_be_used_is_left_out_by_name(tmp_path: Path, folder: Path) -> None:
    raw = write(tmp_path / "raw", 4, 2)
    train, test = raw / "train", raw / "test"
    (train / "cat" / "0000.jpg").write_bytes(jpeg(1)[:200])  # broken off
    (train / "cat" / "0001.jpg").write_bytes((test / "dog" / "0000.jpg").read_bytes())
    (train / "dog" / "0003.jpg").write_bytes((train / "dog" / "0002.jpg").read_bytes())
    (train / "owl" / "0000.jpg").write_bytes((train / "cat" / "0003.jpg").read_bytes())
    (test / "owl" / "0001.jpg").write_bytes((test / "owl" / "0000.jpg").read_bytes())
    (test / "yak").mkdir()
    (test / "yak" / "0000.jpg").write_bytes(jpeg(999))
    text = io.StringIO()
    prepare(recipe(raw), folder, console=Console(file=text, width=200))
    assert left_out(folder) == {
        "train/cat/0000.jpg": "does not decode",
        "train/cat/0001.jpg": "also in test",
        "train/dog/0003.jpg": "duplicate",
        "train/cat/0003.jpg": "contradicting labels",
        "train/owl/0000.jpg": "contradicting labels",
        "test/yak/0000.jpg": "unknown label",
    }
    assert all(name in text.getvalue() for name in left_out(folder))
    assert "same content as test/dog/0000.jpg" in text.getvalue()
    dataset = PreparedDataset.open(folder)
    assert dataset.document["counts"] == {
        "train": {"cat": 1, "dog": 3, "owl": 3},
        "test": {"cat": 2, "dog": 2, "owl": 2},
    }
    # The gaps are closed, and every row still belongs to its record.
    assert len(dataset) == len(dataset.images) == len(dataset.labels) == 13
    for row in range(len(dataset)):
        served = Preprocess(recipe(raw).preprocess()).resize(decode(dataset.record(row).read(raw)))
        assert np.array_equal(dataset.images[row], served.numpy())
        assert dataset.classes[dataset.labels[row]] == dataset.record(row).label
        own = served.to(torch.float64).flatten(1) / 255
        mean, std = dataset.statistics(np.array([row]))
        assert mean == pytest.approx(own.mean(1).tolist()) and std == pytest.approx(own.std(1, correction=0).tolist())


def test_every_file_is_used_or_named(tmp_path: Path, folder: Path) -> None:
    raw = write(tmp_path / "raw", 4, 2)
    extra = {
        "moths.csv": "not read",
        "train/cat/.DS_Store": "hidden or a system's own",
        "train/cat/Thumbs.db": "hidden or a system's own",
        "train/owl/notes.txt": "does not decode",
        "train/loose.jpg": "not read",
        "images to test/1.jpg": "",
        "images to test/deep/2.jpg": "",
        "__MACOSX/train/cat/._0.jpg": "",
        "test/cat/.ipynb_checkpoints/1.jpg": "",
        "train/dog/line\nbreak.jpg": "does not decode",
    }
    for name in extra:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_text(name)
    os.mkfifo(raw / "train" / "cat" / "pipe.jpg")
    (raw / "nothing").mkdir()
    text = io.StringIO()
    prepare(recipe(raw), folder, console=Console(file=text, width=200, soft_wrap=True))
    with open(folder / "left_out.csv", newline="", encoding="utf-8") as file:
        lines = {line["id"]: (line["reason"], int(line["files"])) for line in csv.DictReader(file)}
    assert lines == {
        **{name: (reason, 1) for name, reason in extra.items() if reason},
        "train/cat/pipe.jpg": ("not a file", 1),
        "images to test/": ("not read", 2),
        "__MACOSX/": ("hidden or a system's own", 1),
        "test/cat/.ipynb_checkpoints/": ("hidden or a system's own", 1),
    }
    dataset = PreparedDataset.open(folder)
    present = sum(not path.is_dir() for path in raw.rglob("*"))
    assert len(dataset) + sum(files for _, files in lines.values()) == present == 29
    assert dataset.document["left_out"] == {
        "hidden or a system's own": 4,
        "not read": 4,
        "does not decode": 2,
        "not a file": 1,
    }
    assert "left out, not read: 4\n    moths.csv\n    images to test/ (2 files)\n" in text.getvalue()
    assert "images to test/ is not read: it holds no class folders" in text.getvalue()
    assert "train/dog/line\\nbreak.jpg (" in text.getvalue()


def test_many_files_beside_those_that_are_used_are_named_together(tmp_path: Path, folder: Path) -> None:
    raw = write(tmp_path / "raw", 120)
    prepare(recipe(raw, reader_options={"images_per_class": 2}), folder)
    assert left_out(folder) == {f"{name}/": "not read" for name in CLASSES}
    assert PreparedDataset.open(folder).document["left_out"] == {"not read": 354}


def test_an_unchanged_set_is_left_alone_and_any_change_is_seen(tmp_path: Path, folder: Path) -> None:
    raw = write(tmp_path / "raw", 2)
    assert prepare(recipe(raw), folder)
    before = (folder / "dataset.json").stat().st_mtime_ns
    assert prepare(recipe(raw), folder) == {}
    assert (folder / "dataset.json").stat().st_mtime_ns == before
    first = PreparedDataset.open(folder)
    (raw / "owl" / "0001.jpg").write_bytes(jpeg(77))
    assert prepare(recipe(raw), folder)
    second = PreparedDataset.open(folder)
    assert first.fingerprint != second.fingerprint and first.key != second.key
    assert prepare(recipe(raw, image_size=8), folder)
    assert PreparedDataset.open(folder).images.shape[-1] == 8
    assert [path.name for path in folder.parent.iterdir()] == ["pets"]


def test_a_store_knows_its_interpolation_and_one_of_an_older_release_is_bilinear(tmp_path: Path, folder: Path) -> None:
    raw = write(tmp_path / "raw", 2)
    assert prepare(recipe(raw), folder)
    document = folder / "dataset.json"
    written = json.loads(document.read_text())
    assert written.pop("interpolation") == "bilinear"
    document.write_text(json.dumps(written))
    assert prepare(recipe(raw), folder) == {}, "it was up to date"
    bilinear = PreparedDataset.open(folder)
    assert bilinear.interpolation == bilinear.preprocess((0.5,) * 3, (0.5,) * 3).interpolation == "bilinear"
    assert "interpolation" not in recipe(raw).content()
    assert prepare(recipe(raw, interpolation="bicubic"), folder)
    bicubic = PreparedDataset.open(folder)
    spec = bicubic.preprocess((0.5,) * 3, (0.5,) * 3)
    assert bicubic.interpolation == spec.interpolation == bicubic.document["interpolation"] == "bicubic"
    assert len({bilinear.key, bicubic.key}) == len({bilinear.content_key, bicubic.content_key}) == 2
    assert bilinear.fingerprint != bicubic.fingerprint
    served = Preprocess(spec).resize(decode(bicubic.record(0).read(raw)))
    assert torch.equal(torch.from_numpy(bicubic.images[0].copy()), served)
    with pytest.raises(DatasetError, match=r"^dataset: interpolation is 'nearest', must be 'bilinear' or 'bicubic'$"):
        recipe(raw, interpolation="nearest")


def test_rows_that_moved_are_another_data_set(tmp_path: Path, folder: Path) -> None:
    raw = write(tmp_path / "raw", 3)
    (raw / "cat" / "broken.jpg").write_bytes(b"no image")
    assert prepare(recipe(raw), folder)
    before = PreparedDataset.open(folder)
    order = [before.record(row).id for row in range(len(before))]
    (raw / "cat" / "broken.jpg").unlink()
    assert prepare(recipe(raw), folder)
    after = PreparedDataset.open(folder)
    now = [after.record(row).id for row in range(len(after))]
    assert sorted(now) == sorted(order)
    assert now != order, "the last row filled the gap"
    assert after.fingerprint != before.fingerprint, "rows are dealt to training and test by number"


def test_training_sees_what_images_hold_and_not_when_they_were_written(tmp_path: Path, folder: Path) -> None:
    raw = write(tmp_path / "raw", 2)
    kept = tmp_path / "kept"

    def keys(**options: object) -> tuple[str, str]:
        assert prepare(recipe(raw, **options), folder), "it was up to date"
        data = PreparedDataset.open(folder)
        return data.key, data.content_key

    first = keys()
    shutil.copytree(raw, kept)
    shutil.rmtree(raw)
    shutil.copytree(kept, raw, copy_function=shutil.copyfile)
    again = keys()
    assert again[0] != first[0] and again[1] == first[1]
    found = [again, keys(image_size=8), keys(store="encoded")]
    (raw / "owl" / "0001.jpg").write_bytes(jpeg(77))
    found.append(keys())
    assert len({content for _, content in found}) == 4


def test_the_key_changes_with_all_code_that_reads(tmp_path: Path) -> None:
    root = Path(module.__file__).parents[2]
    for package in ("handlers", "training"):
        shutil.copytree(root / package, tmp_path / package)
    write(tmp_path / "raw", 1)
    code = (
        "import sys; from pathlib import Path; from training.data.recipe import Recipe;"
        "recipe = Recipe(name='a', reader='petals', raw=Path('raw'), image_size=8); print(recipe.key());\n"
        "for name in sys.argv[1:]: open(name, 'a').write(' ') and print(recipe.key())"
    )
    reading = ("__init__.py", "petals.py", "folder.py", "options.py", "petals_classes.json")
    files = [
        *(f"training/data/readers/{name}" for name in reading),
        "training/data/tfrecord.py",
        "training/data/records.py",
    ]
    files += [
        "training/data/decoders.py",
        "training/data/index.py",
        "handlers/images/limits.py",
        "handlers/images/pillow.py",
    ]
    images = ("tiff", "decoding", "jpeg", "orientation", "colours", "avif")
    files += [*(f"handlers/images/{name}.py" for name in images), "handlers/preprocessing.py"]
    done = subprocess.run(
        [sys.executable, "-c", code, *files, "training/data/readers/moths.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    *keys, another_readers = done.stdout.split()
    assert len(set(keys)) == len(files) + 1
    assert another_readers == keys[-1], "what another reader does is of no concern"


def test_the_fingerprint_does_not_depend_on_the_place_or_the_time(tmp_path: Path, folder: Path) -> None:
    prints = []
    for name in ("here", "there"):
        raw = write(tmp_path / name, 2)
        os.utime(raw / "cat" / "0000.jpg", (len(name), len(name)))
        prepare(recipe(raw), folder)
        prints.append(PreparedDataset.open(folder).fingerprint)
    assert prints[0] == prints[1]


def test_torch_is_not_imported_for_an_unchanged_set(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", 2)
    arguments = ["dataset=class_folders", f"raw={raw}", "store=pets", "dataset.image_size=8", "processes=1"]
    code = (
        "import sys; from training.data.prepare import main; code = main(sys.argv[1:]);"
        "print([name for name in ('torch', 'kornia', 'webdataset', 'sklearn') if name in sys.modules]); sys.exit(code)"
    )
    root = Path(module.__file__).parents[2]
    for expected in ("6 images", "is up to date"):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert expected in done.stderr and done.stdout.strip() == "[]"


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, folder: Path) -> None:
    raw = write(tmp_path / "raw", 60)
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom training.data.index import Index\n"
        "from training.data.recipe import Recipe\nfrom training.data.prepare import prepare\n"
        "finish, done = Index.finish, []\n"
        "def kill(self, chunk):\n    finish(self, chunk); done.append(1)\n"
        "    if len(done) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Index.finish = kill\n"
        "prepare(Recipe(name='pets', reader='class_folders', raw=Path(sys.argv[1]), image_size=16), Path(sys.argv[2]))"
    )
    root = Path(module.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    killed = subprocess.run([sys.executable, "-c", code, str(raw), str(folder)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL and not folder.exists()
    text = io.StringIO()
    prepare(recipe(raw), folder, console=Console(file=text, width=200))
    assert "128 images are done" in text.getvalue()
    fresh = folder.with_name("fresh")
    prepare(recipe(raw), fresh)
    assert (fresh / "images.npy").read_bytes() == (folder / "images.npy").read_bytes()
    assert PreparedDataset.open(fresh).fingerprint == PreparedDataset.open(folder).fingerprint


def test_an_interrupted_run_for_other_settings_is_not_gone_on_with(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write(tmp_path / "raw", 2)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(recipe(raw), folder)
    assert folder.with_name("pets.partial").exists() and not folder.exists()
    prepare(recipe(raw, image_size=8), folder)
    assert PreparedDataset.open(folder).images.shape == (6, 3, 8, 8)


def test_a_failed_read_leaves_nothing_behind_and_keeps_what_was_there(tmp_path: Path, folder: Path) -> None:
    raw = write(tmp_path / "raw", 2)
    prepare(recipe(raw), folder)
    before = PreparedDataset.open(folder).fingerprint
    for path in (raw / "owl").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="owl"):
        prepare(recipe(raw), folder)
    assert [path.name for path in folder.parent.iterdir()] == ["pets"]
    assert PreparedDataset.open(folder).fingerprint == before


def test_a_set_without_one_usable_image_is_refused(tmp_path: Path, folder: Path) -> None:
    raw = write(tmp_path / "raw", 1)
    for path in raw.rglob("*.jpg"):
        path.write_bytes(b"no image" + path.parent.name.encode())
    with pytest.raises(DatasetError, match=r"none of the images can be used, first cat/0000\.jpg"):
        prepare(recipe(raw), folder)
    assert list(folder.parent.iterdir()) == []


def test_a_class_without_one_usable_image_is_refused_by_name(tmp_path: Path, folder: Path) -> None:
    raw = write(tmp_path / "raw", 4, 2)
    for number, path in enumerate(sorted((raw / "train" / "dog").iterdir())):
        path.write_bytes(b"<html>404 Not Found %d</html>" % number)
    with pytest.raises(
        DatasetError, match=r"class 'dog' has no image.* 4 files .*train/dog/0000\.jpg: does not decode"
    ):
        prepare(recipe(raw), folder)
    assert list(folder.parent.iterdir()) == []
    # Outputs that a data set numbers itself stay, and are named.
    signs, text = write(tmp_path / "signs" / "asl_alphabet_train", 2, classes=("A", "B")).parent, io.StringIO()
    prepare(recipe(signs, reader="asl_alphabet"), folder, console=Console(file=text, width=200))
    assert len(PreparedDataset.open(folder).classes) == 29
    assert "without an image to train on, yet an output of the network: 27 classes, 'C', 'D'" in text.getvalue()


def test_classes_with_few_images_are_named(tmp_path: Path, folder: Path) -> None:
    raw = write(tmp_path / "raw", 12)
    for path in sorted((raw / "owl").iterdir())[1:]:
        path.unlink()
    text = io.StringIO()
    prepare(recipe(raw), folder, console=Console(file=text, width=200))
    assert "fewer than 10 images to train on: 1 class, 'owl' 1. Add images where you can" in text.getvalue()


def test_a_full_disk_is_met_before_decoding(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(OSError, match=r"[0-9.]+ GB are needed") as caught:
        prepare(recipe(write(tmp_path / "raw", 1), store="decoded", image_size=2_000_000), folder)
    assert caught.value.errno == errno.ENOSPC


def test_the_command_says_in_one_line_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    for overrides, message in (
        (["dataset=class_folders", "raw=loop"], "loop is a link to itself: give a folder with raw=<f"),
        (["dataset=class_folders", "raw=nowhere"], "nowhere: the folder of raw images does not exist"),
        (["dataset=class_folders", f"raw={__file__}"], "is a file; give the folder that it was unpacked to"),
        (["dataset=class_folders", f"raw={tmp_path}", "dataset.store=zip"], "dataset.store is 'zip'"),
        (["dataset=class_folders", f"raw={tmp_path}", "dataset.reader=none"], "dataset.reader is 'none'"),
        # A module that the readers share is none itself.
        (["dataset=class_folders", f"raw={tmp_path}", "dataset.reader=folder"], "dataset.reader is 'folder'"),
        (["dataset=class_folders", f"raw={tmp_path}", "store=a/b"], "'a/b' cannot name a model"),
        (["split.fold=11"], "split.fold is 11"),
        (["augment=-1"], "augment is -1"),
    ):
        assert main(overrides) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_two_runs_do_not_work_in_one_folder(tmp_path: Path, folder: Path) -> None:
    raw = write(tmp_path / "raw", 1)
    partial = folder.with_name("pets.partial")
    partial.mkdir(parents=True)
    with module._only_one(partial), pytest.raises(RuntimeError, match="being prepared by another process"):
        prepare(recipe(raw), folder)


def test_an_error_of_the_work_is_not_reported_as_another_process(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="would block"), module._only_one(tmp_path):
        raise BlockingIOError("a write would block")


def test_the_listing_sees_names_sizes_and_times(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", 2)
    seen = {listing(raw)}
    os.utime(raw / "cat" / "0000.jpg", (1, 1))
    seen.add(listing(raw))
    (raw / "cat" / "0000.jpg").rename(raw / "cat" / "new.jpg")
    seen.add(listing(raw))
    (raw / "cat" / "new.jpg").write_bytes(b"")
    os.utime(raw / "cat" / "new.jpg", (1, 1))
    seen.add(listing(raw))
    assert len(seen) == 4


def test_real_or_generated_signs_report_exactly_the_copies(
    tmp_path: Path, folder: Path, real_data: Path | None
) -> None:
    """The public test files of the sign alphabet partly stand among its train files."""
    if real_data is None:
        raw = tmp_path / "asl"
        write(raw / "asl_alphabet_train", 3, classes=("A", "B", "C"))
        (raw / "asl_alphabet_test").mkdir()
        (raw / "asl_alphabet_test" / "A_test.jpg").write_bytes(jpeg(500))
        copied = raw / "asl_alphabet_train" / "B" / "0001.jpg"
        (raw / "asl_alphabet_test" / "B_test.jpg").write_bytes(copied.read_bytes())
        expected, tests = {"asl_alphabet_train/B/0001.jpg"}, 2
    else:
        raw, tests = real_data / "asl_alphabet", 28
        copies = [path for path in raw.rglob("*.jpg") if path.name.split(".")[0] in ("J1", "L1", "M1", "V1", "Y1")]
        expected = {path.relative_to(raw).as_posix() for path in copies}
    prepare(recipe(raw, reader="asl_alphabet", image_size=8), folder, processes=2)
    assert left_out(folder) == dict.fromkeys(expected, "also in test")
    assert sum(json.loads((folder / "dataset.json").read_text())["counts"]["test"].values()) == tests


def test_classes_are_the_readers(tmp_path: Path, folder: Path) -> None:
    prepare(recipe(write(tmp_path / "raw", 1)), folder)
    assert PreparedDataset.open(folder).classes == CLASSES
