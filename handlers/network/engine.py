"""A loaded network made fast for the machine that it finds itself on: precision, layout of memory, fused layers."""

import copy
import logging
from collections.abc import Callable

import torch
from torch import nn

from handlers.device import out_of_memory_errors
from handlers.network import graphs, torchscript
from handlers.network.precision import DTYPES

# Batches are filled up to one of these: each size is compiled once, when the engine is warmed up.
# On a CPU the activations of 16 images fit in cache, those of 32 do not.
SIZES = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 2, 4, 8, 16, 32, 64)}
CPU = torch.device("cpu")
WARM_UP = 3  # runs of a size until TorchScript has profiled and fused it


Network = Callable[[torch.Tensor], torch.Tensor]


def optimized(module: nn.Module, device: torch.device, precision: str) -> nn.Module:
    """Return a TorchScript module with weights of `precision`, channels-last, batch norms folded into convolutions.

    It takes the given module over; do not use that one afterwards.
    """
    if precision == "int8":
        return torchscript.frozen(module)
    fused = torchscript.fused(module.eval().to(device, DTYPES[precision]).to(memory_format=torch.channels_last), device)
    if device.type == "cuda":
        torchscript.tune_convolutions(fused, exact=precision == "fp32")
    return fused


class Engine:
    """Answers batches of one of `sizes` with `module`, which takes images of `shape` (C, S, S) in `precision`.

    The module is a callable on `device`: a network that `optimized` returned, or one compiled ahead of time.
    """

    def __init__(self, module: Network, shape: tuple[int, int, int], device: torch.device, precision: str) -> None:
        self.device, self.shape, self.precision = device, shape, precision
        self.sizes = SIZES[device.type]
        self.module = module
        self._graphs: dict[int, graphs.Graph] = {}
        self._pool = graphs.GraphPool(device) if device.type == "cuda" else None

    def warm_up(self, largest: int, *, record: bool = True) -> None:
        """Run every size up to the first that holds `largest` images; on a GPU, `record` it as a CUDA graph."""
        first = next(size for size in self.sizes if size >= min(largest, self.sizes[-1]))
        sizes = self.sizes[: self.sizes.index(first) + 1]
        for size in sizes:
            for _ in range(WARM_UP):
                self(self.buffer(size).zero_())
        for size in reversed(sizes if record else ()):  # the others fit in the memory of the largest
            self._record(size)

    def _record(self, size: int) -> None:
        """Have the GPU start a size's kernels in one call, where the network can be recorded."""
        if self._pool is None:
            return
        inputs = self.buffer(size).zero_()  # inference tensors cannot be written to outside inference mode
        try:
            with torch.inference_mode(), out_of_memory_errors():
                self._graphs[size] = graphs.Graph(self.module, inputs, self._pool)
        except RuntimeError as error:
            outcome = "running it without a graph"
            if not isinstance(error, torch.OutOfMemoryError):  # a smaller size may fit in memory
                self._pool, outcome = None, "running without graphs"
            reason = str(error).partition("\n")[0]
            logging.getLogger(__name__).warning(
                "CUDA graph capture failed for batch size %d, %s: %s", size, outcome, reason
            )

    def buffer(self, count: int) -> torch.Tensor:
        """Return a batch to fill with `count` normalised images, zeros up to the next of `sizes`: (size, C, S, S).

        On a GPU that is the same batch each time.

        Raises:
            ValueError: more images than the largest of `sizes`.
        """
        if count > self.sizes[-1]:
            raise ValueError(f"a batch of {count} images, may have at most {self.sizes[-1]}")
        size = next(size for size in self.sizes if size >= count)
        if size in self._graphs:
            batch = self._graphs[size].inputs
            batch[count:].zero_()
            return batch
        batch = torch.empty(
            (size, *self.shape), dtype=DTYPES[self.precision], device=self.device, memory_format=torch.channels_last
        )
        batch[count:].zero_()
        return batch

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits, float32 of shape (size, K) on the CPU, for a batch from `buffer` that was filled in."""
        return self.run_async(inputs).to("cpu", torch.float32)

    @torch.inference_mode()
    def run_async(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the same on the device, in the network's precision, without waiting for a GPU.

        Overwritten by the next call, with inputs of whatever size.
        """
        graph = self._graphs.get(len(inputs))
        if graph is not None and graph.inputs is inputs:
            return graph.replay()
        with out_of_memory_errors():
            logits: torch.Tensor = self.module(inputs)
        return logits


def traced(
    module: nn.Module,
    shape: tuple[int, int, int],
    device: torch.device = CPU,
    precision: str = "fp32",
) -> Engine:
    """Return a copy of a network in evaluation mode as a server runs it: traced, norms folded, layers fused."""
    network = torchscript.traced(copy.deepcopy(module).cpu(), shape)
    return Engine(optimized(network, device, precision), shape, device, precision)
