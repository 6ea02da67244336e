"""The comparison of int8: kinds agree with fp32 as far as they should, and what is not there is said."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import int8
from benchmarks.harness import resnet

SIDE, CLASSES = 64, 3


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    return resnet.scenes(resnet.spec(CLASSES, SIDE), 8, 0)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return resnet.untrained(CLASSES)


def test_scenes_are_those_of_the_classes_and_two_sides_differ(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    pixels, labels = images
    assert pixels.shape == (24, 3, SIDE, SIDE) and labels.bincount().tolist() == [8, 8, 8]
    again, _ = resnet.scenes(resnet.spec(CLASSES, SIDE), 8, 0)
    other, _ = resnet.scenes(resnet.spec(CLASSES, SIDE), 8, 1)
    assert torch.equal(again, pixels) and not torch.equal(other, pixels)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
def test_each_kind_answers_as_fp32_does(
    network: torch.nn.Module, images: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    pixels, labels = images
    spec = resnet.spec(CLASSES, SIDE)
    kinds = {name: int8.ours(network, spec, name, pixels, tmp_path) for name in ("fp32", "int8")}
    with torch.no_grad():
        expected = network(pixels).softmax(1)
    found = {name: int8.answers(kind, pixels) for name, kind in kinds.items()}
    exact = int8.agreement(expected, found["fp32"], labels)
    assert exact["same_top1"] == exact["images"] == 24 and exact["largest_difference"] < 1e-3
    rounded = int8.agreement(expected, found["int8"], labels)
    assert 1e-6 < rounded["largest_difference"] < 0.1
    rows = int8.speeds(kinds, pixels, rounds=1)
    assert [(row["batch"], row["kind"]) for row in rows] == [(b, k) for b in (1, 8, 16) for k in ("fp32", "int8")]
    assert all(0 < row["range"][0] <= row["images_per_second"] <= row["range"][1] for row in rows)


def test_a_wrong_answer_is_counted() -> None:
    expected = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    found = torch.tensor([[0.9, 0.1], [0.7, 0.3]])
    counted = int8.agreement(expected, found, torch.tensor([0, 1]))
    assert counted["same_top1"] == 1 and counted["top1"] == 0.5
    assert counted["largest_difference"] == pytest.approx(0.5)


def test_a_batch_that_is_not_full_is_filled_and_cut_again() -> None:
    asked: list[int] = []

    def ask(inputs: torch.Tensor) -> torch.Tensor:
        asked.append(len(inputs))
        return inputs[:, 0, 0, :2]

    images = torch.arange(19 * 4, dtype=torch.float32).reshape(19, 1, 2, 2)
    found = int8.answers((lambda given: given, ask), images)
    assert asked == [16, 16] and torch.equal(found, images[:, 0, 0, :2].softmax(1))


def test_torchao_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, network: torch.nn.Module, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)  # as if it were not installed
    with pytest.raises(int8.UnavailableError, match=r"not installed .*: uv pip install torchao"):
        int8.torchao(network, images[0])
