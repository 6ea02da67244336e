"""From which weights `make up` starts when a model's images or classes have changed."""

import json
import zipfile
from pathlib import Path

import pytest

from handlers.run_folder import RunFolder
from pipeline import warm_start
from serving.store.model_store import Archive
from tests.unit import class_folders
from training.configuration import compose, plain
from training.data import prepare
from training.data.store import PreparedDataset

SETTINGS = ("dataset=class_folders", "name=pets", "split.folds=4")
SMALL = ("dataset.image_size=8", "dataset.interpolation=bilinear", "processes=1")
START = ("network.pretrained=data/weights/pets-2.0.pt",)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedDataset:
    """Return prepared images of three classes."""
    monkeypatch.chdir(tmp_path)
    class_folders.write(tmp_path / "raw", 12)
    for number, path in enumerate(sorted((tmp_path / "raw").rglob("*.jpg"))):
        path.write_bytes(class_folders.jpeg(number))
    return prepared()


def prepared() -> PreparedDataset:
    assert prepare.main([*SETTINGS, *SMALL, "raw=raw"]) == 0
    return PreparedDataset.open("data/processed/pets")


def archive(
    version: str,
    *overrides: str,
    classes: tuple[str, ...],
    fingerprint: str = "old",
    kept: PreparedDataset | None = None,
) -> Archive:
    """Write an archive with the sidecar of a training; keep its weights if it was trained on prepared images."""
    path = Path(f"model_store/pets-{version}.mar")
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("model.pt", version)
    written, config = Archive("pets", version, path), compose([*SETTINGS, *overrides])
    document = {"config": plain(config), "classes": list(classes), "dataset_fingerprint": fingerprint}
    written.sidecar.write_text(json.dumps(document))
    if kept is not None:
        run = RunFolder(Path("runs/pets/tuned"))
        run.path.mkdir(parents=True, exist_ok=True)
        run.model.write_text(f"weights of {version}")
        warm_start.keep(Path.cwd(), "pets", version, run, config, kept)
    return written


def start(live: Archive | None, data: PreparedDataset, *overrides: str) -> tuple[str, ...]:
    return warm_start.overrides(Path.cwd(), live, compose([*SETTINGS, *overrides]), data, overrides)


def test_a_fine_tuned_network_is_where_training_starts_with_a_new_class(data: PreparedDataset) -> None:
    old, *rest = data.classes
    live = archive("2.0", classes=tuple(rest), kept=data)
    assert start(live, data) == START
    assert Path("data/weights/pets-2.0.pt").read_text() == "weights of 2.0"
    assert start(archive("2.0", classes=(*data.classes, f"not {old}"), kept=data), data) == ()


def test_the_start_stays_while_the_images_do(data: PreparedDataset) -> None:
    archive("2.0", classes=data.classes, kept=data)
    for stages in (1, 2):  # the new head is live, then the network that was fine-tuned from it
        options = (*START, f"transfer.stages={stages}")
        live = archive("3.0", *options, classes=data.classes, fingerprint=data.fingerprint, kept=data)
        assert start(live, data) == START
    live = archive("3.0", classes=data.classes, fingerprint=data.fingerprint, kept=data)
    assert start(live, data) == ()  # it started from the pretrained weights
    Path("data/weights/pets-2.0.pt").unlink()
    assert start(archive("3.0", *START, classes=data.classes, fingerprint=data.fingerprint), data) == ()


def test_a_head_that_is_live_passes_on_the_weights_below_it(data: PreparedDataset) -> None:
    archive("2.0", classes=data.classes, kept=data)
    assert start(archive("3.0", *START, "transfer.stages=1", classes=data.classes), data) == START
    assert start(archive("4.0", "transfer.stages=1", classes=data.classes), data) == ()


def test_images_of_its_training_do_not_judge_the_next_network(data: PreparedDataset) -> None:
    live = archive("2.0", classes=data.classes, kept=data)
    assert start(live, data) == START
    for other in ("split.seed=1", "split.folds=3", "split.fold=1"):
        assert start(live, data, other) == ()
    for path in sorted(Path("raw").rglob("*.jpg"))[::3]:  # a test side of its own, from images that trained before
        target = Path("raw/test") / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    for folder in [path for path in Path("raw").iterdir() if path.name != "test"]:
        Path("raw/train").mkdir(exist_ok=True)
        folder.rename(Path("raw/train") / folder.name)
    moved = prepared()
    assert moved.classes == data.classes and start(live, moved) == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((), ("network=efficientnet_lite1",)),
        ((), ("network=efficientnet_lite1", "dataset.image_size=224")),
        ((), ("network.pretrained=elsewhere.pt",)),
        ((), ("network.pretrained=true",)),
        ((), ("dataset.image_size=128",)),
        (("network=small_cnn",), ()),
    ],
)
def test_another_network_or_input_starts_from_the_pretrained_weights(
    old: tuple[str, ...], new: tuple[str, ...], data: PreparedDataset
) -> None:
    assert start(archive("2.0", *old, classes=data.classes, kept=data), data, *new) == ()


def test_nothing_live_or_nothing_kept_starts_from_the_pretrained_weights(data: PreparedDataset) -> None:
    assert start(None, data) == ()
    live = archive("2.0", classes=data.classes)  # of an older release
    assert start(live, data) == ()
    live = archive("2.0", classes=data.classes, kept=data)
    live.sidecar.write_text("damaged")
    assert start(live, data) == ()
