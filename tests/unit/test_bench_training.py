"""The benchmark of the loader, at its smallest: what it writes is whole, and the README's table can be made of it."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import training
from benchmarks.pages import training_tables


def test_the_result_says_how_it_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--rounds", "1", "--steps", "1", "--images", "64", "dataset.image_size=32", "trainer.batch_size=8"]
    threads = torch.get_num_threads()
    try:
        training.main(arguments)  # one step is too short to reach the goal, or to miss it
    finally:
        torch.set_num_threads(threads)
    document = json.loads(training.RESULT.read_text())
    assert document["command"] == "python -m benchmarks.training " + " ".join(arguments)
    assert "batches of 8 | value |" in training_tables.training(training.RESULT.parent)
