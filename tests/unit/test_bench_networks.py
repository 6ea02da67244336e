"""The benchmark of networks: rates, the ratio to ResNet-18, and the table of them."""

import pytest
import torch

from benchmarks import networks
from benchmarks.harness import resnet
from benchmarks.int8 import Kind
from benchmarks.interleave import take_turns
from benchmarks.pages import serving_tables
from training.configuration import ConfigurationError


def test_a_ratio_is_that_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def network(seconds: float) -> Kind:
        def run(images: torch.Tensor) -> torch.Tensor:
            nonlocal now
            now += seconds * len(images)
            return images

        return lambda images: images, run

    monkeypatch.setattr(
        networks, "take_turns", lambda works, rounds, turn: take_turns(works, rounds, turn, lambda: now)
    )
    kinds = {"resnet18": network(0.3), "small": network(0.1)}
    reference, small, *larger = networks.measure(kinds, torch.zeros(8, 1), "fp32", 3)
    assert (small["network"], small["batch"], small["images_per_second"], small["ratio"]) == ("small", 1, 10.0, 3.0)
    assert reference["ratio_range"] == [1.0, 1.0] and [row["batch"] for row in larger] == [8, 8]
    document = {
        "rows": [reference, small],
        "parameters": {"resnet18": 11_000_000, "small": 1_000_000},
        "image_size": 224,
        "number_of_rounds": 3,
    }
    table = serving_tables.networks.__wrapped__(document)  # type: ignore[attr-defined]
    assert "| small | 1.00 M | 10; 3.00 (3.00 to 3.00) |" in table


def test_networks_are_built_without_their_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert resnet.untrained(network="small_cnn").head.out_features == 12
    with pytest.raises(ConfigurationError, match="resnet17"):
        resnet.untrained(network="resnet17")
    assert networks.main(["--networks", "resnet17"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
