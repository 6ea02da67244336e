"""A loaded network made fast for the machine that it finds itself on: precision, layout of memory, fused layers."""

import torch
from torch import nn

from handlers import artifact
from handlers.precision import DTYPES

# Batches are filled up to one of these: each size is compiled once, when the engine is warmed up.
# On a CPU the caches hold what 16 images leave behind between two layers, and not what 32 do.
SIZES = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 2, 4, 8, 16, 32)}
WARM_UP = 3  # runs of a size until TorchScript has profiled and fused it


class Engine:
    """Answers batches of one of `sizes` with a TorchScript `module` that takes images of `shape` (C, S, S).

    Its weights are of `precision` and stand channels-last; batch norms are folded into convolutions. The module is used
    up: only calling the engine is left.
    """

    def __init__(self, module: nn.Module, shape: tuple[int, int, int], device: torch.device, precision: str) -> None:
        self.device, self.shape, self.precision = device, shape, precision
        self.sizes = SIZES[device.type]
        self.module = module
        if precision == "int8":
            self.module = artifact.frozen(module)
        else:
            module = module.eval().to(device, DTYPES[precision]).to(memory_format=torch.channels_last)
            self.module = artifact.fused(module, device)

    def warm_up(self, largest: int) -> None:
        """Run every size up to the first that holds `largest` images."""
        for size in self.sizes:
            for _ in range(WARM_UP):
                self(self.inputs(size).zero_())
            if size >= largest:
                return

    def inputs(self, count: int) -> torch.Tensor:
        """Return room for `count` normalised images, and zeros up to the next of `sizes`: (size, C, S, S).

        Raises:
            ValueError: more images than the largest of `sizes`.
        """
        if count > self.sizes[-1]:
            raise ValueError(f"a batch of {count} images, may have at most {self.sizes[-1]}")
        size = next(size for size in self.sizes if size >= count)
        room = torch.empty(
            (size, *self.shape), dtype=DTYPES[self.precision], device=self.device, memory_format=torch.channels_last
        )
        room[count:].zero_()
        return room

    @torch.inference_mode()
    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits, float32 of shape (size, K) on the CPU, of what `inputs` gave, filled."""
        logits: torch.Tensor = self.module(inputs)
        return logits.to("cpu", torch.float32)
