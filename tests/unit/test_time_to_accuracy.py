"""The time to an accuracy is that of whole epochs, and drawn frames say nothing of the real ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import page
from benchmarks.time_to_accuracy import reached
from handlers.run_folder import RunFolder

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("accuracies", "seconds"), [([0.5, 0.995, 0.9], 3.0), ([0.995, 1, 1], 1.0), ([0.5, 0.6, 0.9949], None), ([], None)]
)
def test_the_first_epoch_that_reaches_it_counts_to_its_end(accuracies: list[float], seconds: float | None) -> None:
    assert reached(accuracies, [1.0, 2.0, 4.0][: len(accuracies)], 0.995) == seconds


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "| *Not measured.* |  |"),
        ({"real": False, "seconds_to_goal": 1.0}, "| *Not measured.* |  |"),
        ({"real": True, "seconds_to_goal": 14.96}, "| 15.0 s | yes |"),
        ({"real": True, "seconds_to_goal": 15.1}, "| 15.1 s | no |"),
        (
            {"real": True, "seconds_to_goal": None, "best": 0.98, "seconds": 9.0},
            "| not reached: 98.00% in 9.0 s | no |",
        ),
    ],
)
def test_the_page_has_a_row_of_it(found: dict[str, Any], said: str) -> None:
    row = f"| the real ASL set from scratch to 99.5 % | at most 15 s {said}"
    assert row in page.goals({"time to accuracy": found})


@pytest.mark.slow
def test_it_is_found_by_training_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("SIGHTLINE_REAL_DATA", raising=False)
    asked = ["--images", "3", "--goal", "0.0", "network=small_cnn", "trainer.epochs=1", "split.folds=2"]
    command = [sys.executable, "-m", "benchmarks.time_to_accuracy", *asked]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["real"] and found["images"]["train"] > 0
    # `seconds` counts what follows the last epoch too.
    (epoch,) = json.loads(RunFolder(tmp_path / "runs/time-to-accuracy").training.read_text())["seconds_by_epoch"]
    assert found["seconds_to_goal"] == pytest.approx(epoch, abs=0.006) and epoch <= found["seconds"] + 0.002
    assert 0 <= found["best"] <= 1
    done = subprocess.run([*command, "trainer.nothing=1"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "error: -m training.train" in done.stderr
