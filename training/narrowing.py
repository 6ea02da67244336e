"""A network with fewer channels than its kind has: layers whose weights have other shapes."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from training.configuration import ConfigurationError

Shapes = dict[str, list[int]]  # of the weight of each layer that differs, by the layer's name
NORM = nn.modules.batchnorm._BatchNorm


def shapes_of(network: nn.Module, kind: nn.Module) -> Shapes:
    """Return the shapes of the layers of a network that differ from those of the network of its kind."""
    usual = dict(kind.named_parameters())
    return {
        name.removesuffix(".weight"): list(weight.shape)
        for name, weight in network.named_parameters()
        if name.endswith(".weight") and name in usual and weight.shape != usual[name].shape
    }


def narrow(network: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Cut the weights of layers of a network to other shapes.

    Raises:
        ConfigurationError: the network has no such layer, or one of another kind than convolution, norm and linear.
    """
    layers = dict(network.named_modules())
    for name, shape in shapes.items():
        layer = layers.get(name)
        if isinstance(layer, nn.Conv2d):
            _narrow_convolution(layer, shape)
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = shape
        elif isinstance(layer, NORM):
            layer.num_features = shape[0]
            layer.running_mean, layer.running_var = (
                None if values is None else values[: shape[0]].clone()
                for values in (layer.running_mean, layer.running_var)
            )
        else:
            raise ConfigurationError(f"network.shapes names {name!r}, which is no layer that can be narrowed")
        layer.weight = _part(layer.weight, shape)
        layer.bias = None if layer.bias is None else _part(layer.bias, shape[:1])


def _narrow_convolution(layer: nn.Conv2d, shape: Sequence[int]) -> None:
    if layer.groups > 1 and layer.groups == layer.in_channels:  # depthwise: each channel is a group
        layer.groups = shape[0]
    layer.out_channels, layer.in_channels = shape[0], shape[1] * layer.groups


def _part(weight: torch.Tensor, shape: Sequence[int]) -> nn.Parameter:
    """Return the first values of a weight in each of its dimensions."""
    values: torch.Tensor = weight.detach()[tuple(slice(size) for size in shape)]
    return nn.Parameter(values.clone(), requires_grad=weight.requires_grad)
