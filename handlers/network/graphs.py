"""CUDA graphs: a network's kernels for one batch size, started by the driver in one call.

A ResNet-50 is about 160 kernels; started one by one, those of a small batch take the processor longer than the GPU.
"""

from collections.abc import Callable

import torch


class GraphPool:
    """One CUDA stream and memory pool shared by an engine's graphs."""

    def __init__(self, device: torch.device) -> None:
        # The caching allocator reuses a block only on the stream that freed it, even in a shared pool.
        self.handle, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Graph:
    """The recorded calls of a `module` on `inputs`, whose address is fixed: fill them, and replay.

    Graphs of one `pool` are replayed one after the other, in any order; each overwrites the answers of all.

    Raises:
        RuntimeError: the module cannot be recorded, such as asking the GPU for a value.
    """

    def __init__(self, module: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, pool: GraphPool) -> None:
        self.inputs = inputs
        before = torch.cuda.current_stream(inputs.device)
        pool.stream.wait_stream(before)
        with torch.cuda.stream(pool.stream):
            module(inputs)  # warm up on this stream: cuBLAS and cuDNN keep a workspace per stream
        before.wait_stream(pool.stream)
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self._graph, pool=pool.handle, stream=pool.stream):
                self._outputs = module(inputs)
        finally:  # torch 2.11 stays on the other stream where a recording fails
            torch.cuda.set_stream(before)

    def replay(self) -> torch.Tensor:
        """Return the module's answer to the current content of `inputs`; the next replay in the pool overwrites it."""
        self._graph.replay()
        return self._outputs
