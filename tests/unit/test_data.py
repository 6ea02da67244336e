"""pipeline/data.py as `make data` calls it: the images of a folder, and what it says where there are none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.data import GENERATED
from tests.unit import class_folders
from training.data.store import PreparedDataset

REPOSITORY = Path(__file__).parents[2]


def data(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipeline.data", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=500)


def test_a_folder_is_prepared_under_a_name_with_overrides(tmp_path: Path) -> None:
    class_folders.write(tmp_path / "raw images", 12)
    arguments = ("--raw", "raw images", "--name", "pets", "augment=0", "dataset.image_size=16")
    done = data(tmp_path, "class_folders", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    prepared = PreparedDataset.open(tmp_path / "data" / "processed" / "pets")
    assert (len(prepared), prepared.image_size) == (36, 16)


@pytest.mark.parametrize("raw", ["nowhere", "file.txt"])
def test_a_raw_folder_that_is_none_is_one_line(tmp_path: Path, raw: str) -> None:
    (tmp_path / "file.txt").touch()
    done = data(tmp_path, "fingers", "--raw", raw)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"error: RAW={raw} is not a folder, a zip or a tar. Name one, or RAW={GENERATED} to have images drawn\n"
    )


def test_a_set_that_cannot_be_drawn_says_which_can(tmp_path: Path) -> None:
    done = data(tmp_path, "class_folders", "--raw", GENERATED)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no images of class_folders can be drawn: DATASET= one of asl_alphabet, ")
    assert len(done.stderr.splitlines()) == 1


def test_a_set_that_cannot_be_downloaded_says_what_to_give(tmp_path: Path) -> None:
    done = data(tmp_path, "class_folders")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "RAW=<folder>" in line
