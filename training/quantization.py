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

from handlers.errors import ArtifactError
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
    except ArtifactError as error:
        raise QuantizationError(f"this build of torch has no int8 layers of {engine}") from error
    with _quiet():
        from torch.ao.quantization import get_default_qconfig_mapping
        from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

        remaining = iter(batches)
        example = next(remaining)
        try:
            plain = _without_relu6(_with_plain_norms(copy.deepcopy(network)))
            prepared = prepare_fx(plain, get_default_qconfig_mapping(engine), (example,))
            _restore_relu6(prepared)
            prepared(example)
            for batch in remaining:
                prepared(batch)
            quantized: nn.Module = convert_fx(prepared)
            quantized(example)
        except Exception as error:  # symbolic tracing fails with whatever a network's own code raises
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise QuantizationError(f"the network cannot be quantized: {reason}") from error
    return quantized.eval()


def _with_plain_norms(network: nn.Module) -> nn.Module:
    """Replace batch norms that do more than that by a plain one and their activation.

    Only plain ones are folded into the convolution before them; others would be computed in float32.
    """
    for name, norm in list(network.named_modules()):
        if isinstance(norm, nn.BatchNorm2d) and type(norm) is not nn.BatchNorm2d:
            plain = nn.BatchNorm2d(norm.num_features, norm.eps, affine=norm.affine)
            plain.load_state_dict(norm.state_dict())
            activation = getattr(norm, "act", nn.Identity())
            _replace(network, name, nn.Sequential(plain, activation).eval())
    return network


def _without_relu6(network: nn.Module) -> nn.Module:
    """Replace each ReLU6 by a marked ReLU: only a ReLU is fused with the convolution before it."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.ReLU6):
            relu = nn.ReLU().eval()
            relu.is_relu6 = True  # type: ignore[assignment]
            _replace(network, name, relu)
    return network


def _restore_relu6(network: nn.Module) -> None:
    """Put each ReLU6 back, also into fused layers: their ranges then end at 6, where int8 cuts off."""
    for name, module in list(network.named_modules()):
        if getattr(module, "is_relu6", False):
            _replace(network, name, nn.ReLU6().eval())


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, module)


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
