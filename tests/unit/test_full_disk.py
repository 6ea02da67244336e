"""Commands on a file system that is full: a line that says so, and the same command continues once there is room."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.archived_run import write_servable
from tests.unit.test_classifier import png
from tests.unit.tinted_store import TINY, tinted_store

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]
as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """Return a function that gives a folder of `tmp_path` a file system in memory, or that another size."""
    mounted = set[Path]()

    def resize(name: str, size: str) -> None:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        options = f"{'remount,' if folder in mounted else ''}size={size},uid={os.getuid()},gid={os.getgid()}"
        subprocess.run([*as_root, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
        mounted.add(folder)

    yield resize
    for folder in mounted:
        subprocess.run([*as_root, "umount", "--lazy", str(folder)], check=True)


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=root, env=environment, capture_output=True, text=True, timeout=300
    )


def check_full(process: subprocess.CompletedProcess[str]) -> None:
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr
    last = process.stderr.splitlines()[-1]
    assert last.startswith("error: the disk is full (") and last.endswith("and the same command continues")


# Full at a checkpoint, and at the artifact, where torch would end the process.
@pytest.mark.parametrize("size", ["16k", "200k"])
def test_training_continues(size: str, disk: Callable[[str, str], None], tmp_path: Path) -> None:
    root = tinted_store(tmp_path)
    command = ("training.train", *TINY, "name=full")
    disk("runs", size)
    check_full(run(root, *command))
    disk("runs", "64m")
    process = run(root, *command)
    assert process.returncode == 0, process.stderr
    assert (root / "runs" / "full" / "model.pt").is_file()


def test_a_search_continues(disk: Callable[[str, str], None], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    root = tinted_store(tmp_path)
    (root / "space.yaml").write_text("trainer.lr: {low: 0.001, high: 0.01}\n")
    command = ("training.tune", *TINY, "--name=search", "--trials=2", "--space=space.yaml")
    disk("runs", "100k")
    check_full(run(root, *command))
    disk("runs", "64m")
    process = run(root, *command)
    assert process.returncode == 0, process.stderr


def test_bulk_prediction_continues(disk: Callable[[str, str], None], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_servable(tmp_path / "runs" / "small")
    (tmp_path / "photos").mkdir()
    for number in range(400):
        (tmp_path / "photos" / f"{number}.png").write_bytes(png(number % 10))
    command = ("pipeline.score", "small", "photos", "--out", "table/scores")
    disk("table", "24k")
    check_full(run(tmp_path, *command))
    disk("table", "64m")
    process = run(tmp_path, *command)
    assert process.returncode == 0, process.stderr
    images = parquet.read_table(tmp_path / "table" / "scores")["image"].to_pylist()
    assert sorted(images) == sorted(set(images)) and len(images) == 400
