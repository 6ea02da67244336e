"""From which weights `make up` starts when a model's images or classes have changed."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline import warm_start
from serving.store.model_store import Archive
from training.configuration import compose, plain

SETTINGS = ("dataset=class_folders", "name=pets")
PREPARED = {"classes": ["cat", "dog", "owl"], "fingerprint": "new"}
START = ("network.pretrained=data/weights/pets-2.0.pt",)


def archive(
    root: Path,
    version: str,
    *overrides: str,
    classes: tuple[str, ...] = ("cat", "dog"),
    fingerprint: str = "old",
    model: str = "model.pt",
) -> Archive:
    """Write an archive with the sidecar of a training."""
    path = root / "model_store" / f"pets-{version}.mar"
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(model, f"weights of {version}")
    written = Archive("pets", version, path)
    document = {
        "config": plain(compose([*SETTINGS, *overrides])),
        "classes": list(classes),
        "dataset_fingerprint": fingerprint,
    }
    written.sidecar.write_text(json.dumps(document))
    return written


def start(root: Path, live: Archive | None, *overrides: str, prepared: dict[str, Any] = PREPARED) -> tuple[str, ...]:
    return warm_start.overrides(root, live, compose([*SETTINGS, *overrides]), prepared)


def test_a_fine_tuned_network_is_where_training_starts_with_a_new_class(tmp_path: Path) -> None:
    assert start(tmp_path, archive(tmp_path, "2.0")) == START
    assert (tmp_path / "data/weights/pets-2.0.pt").read_text() == "weights of 2.0"


def test_the_start_stays_while_the_images_do(tmp_path: Path) -> None:
    archive(tmp_path, "2.0")
    for stages in (1, 2):  # the new head is live, then the network that was fine-tuned from it
        live = archive(tmp_path, "3.0", *START, f"transfer.stages={stages}", fingerprint="new")
        assert start(tmp_path, live) == START
    assert (tmp_path / "data/weights/pets-2.0.pt").read_text() == "weights of 2.0"
    live = archive(tmp_path, "3.0", fingerprint="new")
    assert start(tmp_path, live) == ()  # it started from the pretrained weights
    (tmp_path / "data/weights/pets-2.0.pt").unlink()
    (tmp_path / "model_store/pets-2.0.mar").unlink()
    assert start(tmp_path, archive(tmp_path, "3.0", *START, fingerprint="new")) == ()


def test_a_head_that_is_live_passes_on_the_weights_below_it(tmp_path: Path) -> None:
    archive(tmp_path, "2.0")
    assert start(tmp_path, archive(tmp_path, "3.0", *START, "transfer.stages=1")) == START
    assert start(tmp_path, archive(tmp_path, "4.0", "transfer.stages=1")) == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((), ("network=efficientnet_lite1",)),
        ((), ("network.pretrained=elsewhere.pt",)),
        ((), ("dataset.image_size=128",)),
        (("split.folds=5",), ()),  # images of its training may be test images now
        (("split.seed=1",), ()),
        (("split.by=group",), ("split.by=group",)),
        (("network=small_cnn",), ()),
    ],
)
def test_another_network_input_or_split_starts_from_the_pretrained_weights(
    old: tuple[str, ...], new: tuple[str, ...], tmp_path: Path
) -> None:
    assert start(tmp_path, archive(tmp_path, "2.0", *old), *new) == ()


def test_nothing_live_a_lost_class_or_an_archive_without_weights_starts_from_the_pretrained_weights(
    tmp_path: Path,
) -> None:
    assert start(tmp_path, None) == ()
    assert start(tmp_path, archive(tmp_path, "2.0", classes=("cat", "eel"))) == ()
    assert start(tmp_path, archive(tmp_path, "2.0", model="model.pt2")) == ()
    live = archive(tmp_path, "2.0")
    live.sidecar.write_text("damaged")
    assert start(tmp_path, live) == ()
    assert not (tmp_path / "data").exists()
