"""A loaded network made fast for the machine that it finds itself on: precision, layout of memory, fused layers."""

import torch
from torch import nn

from handlers.artifact import fused

# Batches are filled up to one of these: each size is compiled once, when the engine is warmed up, and its buffers stay.
SIZES = (1, 2, 4, 8, 16, 32)
WARM_UP = 3  # runs of a size until TorchScript has profiled and fused it


class Engine:
    """Answers batches of any size up to the largest of `SIZES` with a TorchScript `module`.

    Its weights and inputs are of `dtype` and stand channels-last; batch norms are folded into convolutions. The module
    is used up: only calling the engine is left.
    """

    def __init__(self, module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        module = module.eval().to(device, dtype).to(memory_format=torch.channels_last)
        self.module = fused(module, device)

    def warm_up(self, shape: tuple[int, int, int], largest: int) -> None:
        """Run every size up to the first that holds `largest` images of `shape` (C, S, S)."""
        for size in SIZES:
            for _ in range(WARM_UP):
                self(torch.zeros((size, *shape)))
            if size >= largest:
                return

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the logits, float32 of shape (B, K) on the CPU, of a normalised batch (B, C, S, S).

        Raises:
            ValueError: more images than the largest of `SIZES`.
        """
        count = len(batch)
        if count > SIZES[-1]:
            raise ValueError(f"a batch of {count} images, may have at most {SIZES[-1]}")
        size = next(size for size in SIZES if size >= count)
        inputs = batch.new_zeros((size, *batch.shape[1:]), dtype=self.dtype, device=self.device)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        inputs[:count] = batch
        logits: torch.Tensor = self.module(inputs)
        return logits[:count].to("cpu", torch.float32)
