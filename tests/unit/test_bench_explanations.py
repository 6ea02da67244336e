"""The pointing game: which peaks count as hits, and on which images."""

from pathlib import Path

import pytest
import torch

from benchmarks import explanations
from benchmarks.explanations import CENTRE, Recipe, Sample
from tests.unit.small_network import save_small


def sample(row: int, column: int) -> Sample:
    on_object = torch.zeros(32, 32, dtype=torch.bool)
    on_object[row, column] = True
    near = torch.zeros(32, 32, dtype=torch.bool)
    near[row - 2 : row + 3, column - 2 : column + 3] = True
    return Sample(torch.zeros(3, 32, 32, dtype=torch.uint8), 0, on_object, near)


def test_a_peak_within_the_tolerance_is_a_hit_beside_the_object() -> None:
    samples = [sample(8, 8), sample(20, 12), sample(20, 12), sample(5, 5)]
    assert explanations.rates(samples, [(8, 8), (22, 10), (23, 12), (5, 5)]) == {"near": 0.75, "on_object": 0.5}


def test_all_methods_play_on_the_images_that_the_network_gets_right(tmp_path: Path) -> None:
    path = save_small(tmp_path / "model.pt")
    row = explanations.pointing("small", path, Recipe("small", "moths", 50, 3, 1, 32, ()), 3)
    assert 0 < row["right"] <= row["images"] == 9 and row["method"] == "occlusion"
    assert set(row["hits"]) == {
        *("occlusion", "occlusion, bilinear", "integrated gradients", "integrated gradients, smoothed", CENTRE)
    }
    assert all(0 <= hits["on_object"] <= hits["near"] <= 1 for hits in row["hits"].values())


def test_an_explanation_is_timed_beside_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanations, "TURN", 0.01)
    path = save_small(tmp_path / "model.pt")
    row = explanations.costs(path, Recipe("small", "moths", 50, 3, 1, 32, ()), 2)
    times = row["cpu_milliseconds"]
    assert times["explanation"] > times["prediction"] > 0
    assert row["added"] == times["predictions beside an explanation"] - times["predictions"]
