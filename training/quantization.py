"""An int8 network from a trained one: post-training static quantization, calibrated on training images.

The only file that names `torch.ao.quantization`, which torch deprecates in favour of torchao. torchao today makes a
`torch.export` program, which is fast only behind a compiler: `benchmarks/int8.py` measures both.
"""

import contextlib
import copy
import warnings
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from handlers.network import torchscript
from handlers.network.precision import multiplies_bytes

CALIBRATION_IMAGES = 256  # their activations give the ranges


class QuantizationError(Exception):
    """A network has no int8 form; the message says why."""


@torch.no_grad()
def quantize(network: nn.Module, batches: Iterable[torch.Tensor]) -> nn.Module:
    """Return an int8 copy of a network, on the CPU, that takes and gives float32.

    Weights are rounded by channel, activations by tensor, with ranges from histograms: `torch.ao`'s defaults of oneDNN,
    with activations of 8 bits, where the processor can multiply these; else those of x86, with 7 bits.

    Args:
        network: in evaluation mode, on the CPU; stays as it is.
        batches: normalised training images, float32 (B, C, S, S) each; at least one.

    Raises:
        QuantizationError: this build of torch has no int8 layers for this processor, or the network cannot be traced.
    """
    engine = "onednn" if multiplies_bytes() else "x86"
    try:
        torchscript.use_int8_engine(engine)
    except torchscript.ArtifactError as error:
        raise QuantizationError(f"this build of torch has no int8 layers of {engine}") from error
    with _quiet():
        from torch.ao.quantization import get_default_qconfig_mapping
        from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

        remaining = iter(batches)
        example = next(remaining)
        try:
            prepared = prepare_fx(copy.deepcopy(network), get_default_qconfig_mapping(engine), (example,))
            prepared(example)
            for batch in remaining:
                prepared(batch)
            quantized: nn.Module = convert_fx(prepared)
            quantized(example)
        except Exception as error:  # symbolic tracing fails with whatever a network's own code raises
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise QuantizationError(f"the network cannot be quantized: {reason}") from error
    return quantized.eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in (
            r"torch\.ao\.quantization is deprecated",
            r"torch\.quantize_per_tensor, .* are deprecated",
            r"Please use quant_min and quant_max to specify the range for observers",
            r"must run observer before calling calculate_qparams",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield
