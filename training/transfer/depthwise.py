"""Depthwise convolutions of a training step, which a CPU computes in float32."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Float32Depthwise(TorchFunctionMode):
    """Within this context, depthwise convolutions that learn leave autocast.

    torch's profiler shows why: oneDNN computes their gradients in bf16 several times slower than in float32.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is not torch.conv2d or not _is_depthwise(*args, **(kwargs or {})):
            return function(*args, **(kwargs or {}))
        inputs, *others = args
        with torch.autocast("cpu", enabled=False):
            return function(inputs.float(), *others, **(kwargs or {}))


def _is_depthwise(_: torch.Tensor, weight: torch.Tensor, *others: Any, groups: int = 1) -> bool:
    groups = others[4] if len(others) > 4 else groups
    return groups > 1 and weight.requires_grad
