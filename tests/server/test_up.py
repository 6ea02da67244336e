"""`make up` from a folder of images to answers over REST, and what it skips the second time."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving import server as server_module
from serving.client import Client
from serving.host import state
from tests.server.conftest import CONFIG, ROOT, free_offset, run_cli

SMALL = ("network=small_cnn", "trainer.epochs=3", "trainer.batch_size=8", "dataset.image_size=32", "augmentation=[]")


def paint(folder: Path, count: int) -> Path:
    """Write `count` images of each of two colours, in a folder for each."""
    rng = np.random.default_rng(0)
    for name, colour in (("warm", (220, 90, 30)), ("cold", (30, 90, 220))):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.clip(rng.normal(colour, 25, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory to work in, whose server ends with the tests."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "config.properties").write_text(CONFIG.read_text())
    paint(folder / "my images", 30)
    yield folder
    server_module.stop(root=folder)


@pytest.fixture(scope="module")
def offset() -> int:
    return free_offset(36_000)


def up(home: Path, offset: int, *overrides: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipeline.up", "my images", "colours", "--minutes", "5", *SMALL, *overrides]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "SIGHTLINE_PORT_OFFSET": str(offset)}
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_from_images_to_answers_then_nothing_twice(home: Path, offset: int) -> None:
    first = up(home, offset)
    assert first.returncode == 0, first.stdout + first.stderr
    record = json.loads((home / "logs" / "up-colours.json").read_text())
    assert list(record["steps"]) == ["prepare", "train", "evaluate", "archive", "serve", "predict"]
    assert record["answers"] == 6
    assert record["right"] == 6
    tests = json.loads((home / "runs" / "colours" / "evaluation" / "metrics.json").read_text())["images"]
    assert f"6 of 6 right; of {tests} test images 100.0%\n" in first.stdout
    assert "curl -sS -H" in first.stdout
    assert "make stop" in first.stdout
    assert "starting TorchServe\n" in first.stdout
    running = state.running(home)
    assert running is not None

    second = up(home, offset)
    assert second.returncode == 0, second.stdout + second.stderr
    again = state.running(home)
    assert again is not None
    assert again.pid == running.pid, "an unchanged model must stay served by the same server"
    assert "starting TorchServe" not in second.stdout and "it is live already\n" in second.stdout
    assert [path.name for path in (home / "model_store").glob("*.mar")] == ["colours-1.0.mar"]
    skipped = json.loads((home / "logs" / "up-colours.json").read_text())["steps"]
    assert skipped["train"] < record["steps"]["train"]


@pytest.mark.slow
def test_a_changed_model_that_scores_lower_is_live_and_is_named_with_the_way_back(home: Path, offset: int) -> None:
    for true, wrong in (("warm", "cold"), ("cold", "warm")):  # half of the images get the wrong label
        for path in sorted((home / "my images" / true).glob("[0-9]*.png")):
            Image.open(path).rotate(90).save(home / "my images" / wrong / f"wrong {path.name}")
    done = up(home, offset)
    assert done.returncode == 0, done.stdout + done.stderr
    compared = json.loads((home / "logs" / "up-colours.json").read_text())["compared"]
    assert compared["top_1"] < compared["top_1_before"] == 1.0
    scores = f"test top-1: colours 1.0 100.0%, colours 2.0 {compared['top_1']:.1%} (the prepared images have changed"
    warning = "warning: 2.0 is live and scores lower than 1.0. Back: make rollback NAME=colours\n"
    assert scores in done.stdout and warning in done.stdout
    with Client(root=home) as client:
        assert client.describe("colours").version == "2.0"
        assert run_cli("serving.deploy", "colours", "--rollback", root=home).returncode == 0
        assert client.describe("colours").version == "1.0"
        assert client.predict((home / "my images" / "cold" / "0.png").read_bytes(), "colours").label == "cold"


TRANSFER = ("transfer.image_size=64", "trainer.epochs=2", "trainer.batch_size=8", "augmentation=[]")


def transfer(
    home: Path, offset: int, name: str, *options: str
) -> tuple["subprocess.CompletedProcess[str]", dict[str, Any]]:
    """Run `make up` for a folder of images from pretrained weights; return the command and its record."""
    command = [sys.executable, "-m", "pipeline.up", name, name, *TRANSFER, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "SIGHTLINE_PORT_OFFSET": str(offset)}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done, json.loads((home / "logs" / f"up-{name}.json").read_text())


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A model of images in `hues`: its linear head, then its fine-tuned network, with the records of both commands."""

    head: dict[str, Any]
    network: dict[str, Any]
    output: str  # of the second command
    is_better: bool  # than the head: it is deployed
    version: str  # that is served after it


@pytest.fixture(scope="module")
def tuned(home: Path, offset: int) -> Tuned:
    paint(home / "hues", 30)
    _, head = transfer(home, offset, "hues", "--stages", "1")
    with Client(root=home) as client:
        assert client.describe("hues").version == "1.0"
        done, network = transfer(home, offset, "hues")
        choice = json.loads((home / "runs" / "hues" / "tuned" / "choice.json").read_text())
        return Tuned(head, network, done.stdout, bool(choice["version"]), client.describe("hues").version)


@pytest.mark.slow
def test_a_linear_head_is_served_before_it_is_fine_tuned(home: Path, offset: int, tuned: Tuned) -> None:
    first = ["prepare", "train", "evaluate", "archive", "serve", "predict"]
    assert list(tuned.head["steps"]) == first and tuned.head["right"] == 6
    steps = list(tuned.network["steps"])
    assert steps[:8] == [*first, "fine-tune", "evaluate fine-tuned"]
    assert tuned.network["first_prediction"] + tuned.network["steps"]["fine-tune"] < tuned.network["seconds"]
    assert "McNemar's p" in tuned.output and tuned.version == ("2.0" if tuned.is_better else "1.0")
    with Client(root=home) as client:
        assert client.predict((home / "hues" / "cold" / "0.png").read_bytes(), "hues").label == "cold"

    archives = sorted(path.name for path in (home / "model_store").glob("hues-*.mar"))
    done, _ = transfer(home, offset, "hues")
    assert "was compared with the served one before" in done.stdout and "it is live already" in done.stdout
    assert sorted(path.name for path in (home / "model_store").glob("hues-*.mar")) == archives


@pytest.mark.slow
def test_a_new_class_starts_from_the_network_that_was_fine_tuned(home: Path, offset: int, tuned: Tuned) -> None:
    shutil.copytree(home / "hues" / "warm", home / "hues" / "new")
    for path in (home / "hues" / "new").iterdir():
        Image.fromarray(np.roll(np.asarray(Image.open(path)), 1, axis=2)).save(path)
    for _ in range(2):  # the second time it is up to date
        done, _ = transfer(home, offset, "hues", "--stages", "1")
        start = "starting from the live fine-tuned network: network.pretrained=data/weights/hues-2.0.pt\n"
        assert (start in done.stdout) is tuned.is_better
        with Client(root=home) as client:
            assert client.describe("hues").version == ("3.0" if tuned.is_better else "2.0")
            assert client.predict((home / "hues" / "new" / "0.png").read_bytes(), "hues").label == "new"


def test_a_folder_that_is_not_there_is_one_line(home: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.up", "nowhere", "x"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: nowhere is not a folder, a zip or a tar. "
        "Name one that holds a folder of images for each class: RAW=<path>\n"
    )
