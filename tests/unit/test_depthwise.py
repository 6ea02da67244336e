"""Depthwise convolutions of a training step in bf16: which leave autocast, and their gradients."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from training.transfer.depthwise import Float32Depthwise


class Types(nn.Sequential):
    """Remembers the type of each output."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.types: list[torch.dtype] = []
        for module in self:
            images = module(images)
            self.types.append(images.dtype)
        return images


def network() -> Types:
    torch.manual_seed(0)
    return Types(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))


def gradients(trained: Types, bf16: bool, alone: bool = True) -> list[torch.Tensor]:
    images = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), Float32Depthwise() if alone else nullcontext():
        outputs = trained(images)
    outputs.float().square().mean().backward()
    return [weight.grad for weight in trained.parameters() if weight.grad is not None]


def test_depthwise_convolutions_that_learn_are_computed_in_float32() -> None:
    trained = network()
    trained[1].requires_grad_(False)
    gradients(trained, bf16=True)
    assert trained.types == [torch.bfloat16, torch.bfloat16, torch.float32, torch.bfloat16]
    gradients(trained, bf16=False)
    assert set(trained.types) == {torch.float32}


def test_their_gradients_are_nearer_to_those_of_float32() -> None:
    exact, mixed, lower = (
        torch.cat([gradient.flatten() for gradient in gradients(network(), bf16=bf16, alone=alone)])
        for bf16, alone in ((False, True), (True, True), (True, False))
    )
    assert (mixed - exact).norm() < (lower - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("call", ["positional", "named"])
def test_groups_are_read_however_they_are_passed(call: str) -> None:
    images, weight = torch.randn(1, 4, 5, 5), torch.randn(4, 1, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), Float32Depthwise():
        if call == "named":
            outputs = torch.conv2d(images, weight, groups=4)
        else:
            outputs = torch.conv2d(images, weight, None, [1, 1], [0, 0], [1, 1], 4)
    assert outputs.dtype == torch.float32
