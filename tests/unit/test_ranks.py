"""Several processes train the network that one trains: each image once an epoch, the same losses."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.unit import class_folders
from training.data import prepare
from training.ranks import Ranks

ROOT = Path(__file__).parents[2]
# Attention has no statistics of a batch, which would be those of a process's part of it.
SETTINGS = [
    "dataset=class_folders", "dataset.image_size=32", "network=vit", "network.embed_dim=24", "network.depth=2",
    "network.num_heads=2", "augmentation=[]", "trainer.mix.p=0", "trainer.precision=fp32", "trainer.train_size=null",
    "trainer.optimizer=adamw", "trainer.lr=1.0e-3", "trainer.epochs=10", "trainer.batch_size=17", "split.test=folds",
]  # fmt: skip
PROCESSES = 3


@pytest.mark.parametrize(("count", "batch_size"), [(1, 8), (2, 8), (3, 8), (3, 3), (5, 7)])
def test_each_row_of_each_batch_is_one_process_s(count: int, batch_size: int) -> None:
    rows = np.random.default_rng(0).permutation(50)
    ranks = [Ranks(rank, count) for rank in range(count)]
    assert sum(each.share_size(batch_size) for each in ranks) == batch_size
    assert sorted(np.concatenate([each.share(rows) for each in ranks])) == sorted(rows)
    shares = [each.share_of_all(rows, batch_size) for each in ranks]
    assert sorted(np.concatenate(shares)) == sorted(rows)
    # No process has too few images for as many batches as the others.
    assert all(
        len(share) >= len(rows) // batch_size * each.share_size(batch_size)
        for each, share in zip(ranks, shares, strict=True)
    )


def test_the_place_of_a_process_is_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Ranks.of_environment() == Ranks(0, 1)
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    ranks = Ranks.of_environment()
    assert ranks == Ranks(3, 4, 1, 2) and not ranks.is_first


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a data set of 120 images, decoded and in shards."""
    root = tmp_path_factory.mktemp("ranks")
    class_folders.write(root / "raw", 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("decoded", "encoded"):
            assert prepare.main([*SETTINGS, "raw=raw", f"name={name}", f"dataset.store={name}", "processes=1"]) == 0
    return root


def train(root: Path, *overrides: str, processes: int = 1) -> "subprocess.CompletedProcess[str]":
    """Train as the command line does, in so many processes."""
    start = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *start, "-m", "training.train", *SETTINGS, *overrides]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)


def metrics(root: Path, name: str) -> list[dict[str, float]]:
    """Return the rows of metrics.csv."""
    with open(root / "runs" / name / "metrics.csv", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_three_processes_have_the_losses_of_one(prepared: Path) -> None:
    for name, processes in {"alone": 1, "together": PROCESSES}.items():
        done = train(prepared, "store=decoded", f"name={name}", processes=processes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("epoch  10/10") == 1, "one process speaks"
    alone, together = metrics(prepared, "alone"), metrics(prepared, "together")
    steps = len(alone) * (97 // 17)
    assert len(alone) == len(together) == 10 and steps == 50
    for one, other in zip(alone, together, strict=True):
        assert other == pytest.approx(one, abs=1e-4)
    assert json.loads((prepared / "runs" / "together" / "train.json").read_text())["processes"] == PROCESSES
    again = train(prepared, "store=decoded", "name=together", processes=2)
    assert again.returncode == 0 and again.stdout.strip() == "runs/together is up to date"


@pytest.mark.slow
def test_shards_are_shared_too_and_impossible_settings_are_named(prepared: Path) -> None:
    done = train(prepared, "store=encoded", "name=shards", "dataset.store=encoded", "trainer.epochs=2", processes=2)
    assert done.returncode == 0, done.stderr
    assert len(metrics(prepared, "shards")) == 2
    for override, words in {
        "trainer.batch_size=1": "trainer.batch_size is 1: 2 processes that train",
        "trainer.max_minutes=1": "2 processes would end at different times: give trainer.epochs",
    }.items():
        refused = train(prepared, "store=decoded", "name=refused", override, processes=2)
        assert refused.returncode and words in refused.stderr
