"""The int8 form: layers that are folded, fused and kept in int8, and answers near those of float32."""

import torch
from torch import nn

from training.configuration import compose, plain
from training.networks import DroppedNorm, build
from training.quantization import quantize


class Residual(nn.Module):
    """ReLU6 after a convolution and after a sum, a ReLU, and a batch norm that does more than that."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), DroppedNorm(8, 0.5)
        self.second, self.clamp = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU6()
        self.last, self.relu, self.sum = nn.Conv2d(8, 4, 1), nn.ReLU(), nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x))
        x = self.sum(x + self.clamp(self.second(x)))
        pooled: torch.Tensor = self.relu(self.last(x)).mean(dim=(2, 3))
        return pooled


def batches() -> list[torch.Tensor]:
    return list(torch.randn(4, 8, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


def relative_error(network: nn.Module, quantized: nn.Module) -> float:
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, answers = network(images), quantized(images)
    return float((answers - expected).square().mean().sqrt() / expected.std())


def test_norms_are_folded_and_a_relu6_cuts_off_at_6() -> None:
    torch.manual_seed(0)
    network = Residual().eval()
    with torch.no_grad():
        network.second.weight.mul_(30)  # far above 6
    quantized = quantize(network, batches())
    kinds = [type(module).__name__ for module in quantized.modules()]
    assert "ConvReLU2d" in kinds and not any("Norm" in kind for kind in kinds)
    assert relative_error(network, quantized) < 0.05
    assert isinstance(network.clamp, nn.ReLU6) and isinstance(network.norm, DroppedNorm)


def test_efficientnet_lite_stays_in_int8_from_its_input_to_its_logits() -> None:
    torch.manual_seed(0)
    node = plain(compose(["network=efficientnet_lite0"]))["network"]
    network = build(node, 5, 3, 64).eval()
    quantized = quantize(network, batches())
    calls = [str(node.target) for node in quantized.graph.nodes]  # type: ignore[union-attr]
    assert sum("quantize_per_tensor" in call or call == "dequantize" for call in calls) <= 4, "float32 in between"
    kinds = [type(module).__name__ for module in quantized.modules()]
    assert kinds.count("ConvReLU2d") == 33 and not any("Norm" in kind for kind in kinds)
    assert relative_error(network, quantized) < 0.2
