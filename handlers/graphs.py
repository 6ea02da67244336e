"""CUDA graphs: a network's kernels for one batch size, started by the driver in one call.

A ResNet-50 is about 160 kernels; started one by one, those of a small batch take the processor longer than the GPU.
"""

from collections.abc import Callable
from typing import Any

import torch

WARM_UP = 3  # runs before the recording: libraries choose their algorithms, and TorchScript specialises


def pool() -> Any:
    """Return a name for memory that graphs share."""
    return torch.cuda.graph_pool_handle()


class Graph:
    """The recorded calls of a `module` on `inputs`, which stay where they are: fill them, and replay.

    Graphs of one `pool` (`pool()`) compute in the same memory, and answer in memory of their own: they are replayed one
    after the other, in any order.

    Raises:
        RuntimeError: the module does what cannot be recorded, such as asking the GPU for a value.
    """

    def __init__(self, module: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, pool: Any) -> None:
        self.inputs = inputs
        beside = torch.cuda.Stream(inputs.device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(inputs.device))
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                module(inputs)
        torch.cuda.current_stream(inputs.device).wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        before = torch.cuda.current_stream(inputs.device)
        try:
            with torch.cuda.graph(self._graph, pool=pool, stream=beside):
                self._outputs = module(inputs)
        finally:  # torch 2.11 stays on the other stream where a recording fails
            torch.cuda.set_stream(before)

    def replay(self) -> torch.Tensor:
        """Return what the module gives for what `inputs` hold now; overwritten by the next call."""
        self._graph.replay()
        return self._outputs
