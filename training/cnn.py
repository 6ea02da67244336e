"""Our own convolutional network: every layer is a line of the configuration."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from training.configuration import ConfigurationError, near

LAYER_DEFAULTS: dict[str, Any] = {
    "channels": None,
    "kernel": 3,
    "stride": 1,
    "padding": "same",
    "norm": True,
    "pool": None,
    "pool_size": 2,
    "pool_stride": None,
    "pool_padding": 0,
    "dropout": 0.0,
}
POOLS: dict[str, type[nn.MaxPool2d] | type[nn.AvgPool2d]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


class ConvNet(nn.Module):
    """Convolution, batch norm, ReLU and pooling, layer by layer; then the mean over the map, and linear layers.

    `layers` holds mappings with the keys of `LAYER_DEFAULTS`; `padding` is pixels or "same" (half the kernel), `hidden`
    the widths of the linear layers before the last. Input (B, channels, h, w), map (B, F, h', w'), embedding (B, D).

    Raises:
        ConfigurationError: a layer has an unknown key, or the layers leave nothing of an image.
    """

    def __init__(
        self, layers: Sequence[Mapping[str, Any]], hidden: Sequence[int], channels: int, image_size: int
    ) -> None:
        super().__init__()
        if not layers:
            raise ConfigurationError("network.layers is empty: give at least one layer such as {channels: 32}")
        first_channels = channels
        blocks: list[nn.Module] = []
        for index, settings in enumerate(layers):
            block, channels = _layer(index, settings, channels)
            blocks.append(block)
        self.layers = nn.Sequential(*blocks)
        widths = [channels, *hidden]
        self.hidden = nn.Sequential(
            *(nn.Sequential(nn.Linear(a, b), nn.ReLU(inplace=True)) for a, b in pairwise(widths))
        )
        self.width = widths[-1]
        try:
            with torch.no_grad():
                self.layers.eval()(torch.zeros(1, first_channels, image_size, image_size))
        except RuntimeError as error:
            raise ConfigurationError(
                f"network.layers leave nothing of {image_size} x {image_size} pixels: {error}"
            ) from error
        self.layers.train()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the map (B, F, h', w') of the last layer."""
        features: torch.Tensor = self.layers(x)
        return features

    def pooled(self, features: torch.Tensor) -> torch.Tensor:
        """Return the embedding (B, D) of a map."""
        embedding: torch.Tensor = self.hidden(features.mean(dim=(2, 3)))
        return embedding


def _layer(index: int, settings: Mapping[str, Any], channels: int) -> tuple[nn.Sequential, int]:
    """Return one block for inputs of `channels`, and the channels that it gives."""
    layer = _options(index, settings)
    out = layer["channels"]
    padding = layer["kernel"] // 2 if layer["padding"] == "same" else layer["padding"]
    convolution = nn.Conv2d(channels, out, layer["kernel"], layer["stride"], padding, bias=not layer["norm"])
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    parts: list[nn.Module] = [convolution]
    if layer["norm"]:
        parts.append(nn.BatchNorm2d(out))
    parts.append(nn.ReLU(inplace=True))
    if layer["pool"] is not None:
        parts.append(POOLS[layer["pool"]](layer["pool_size"], layer["pool_stride"], layer["pool_padding"]))
    if layer["dropout"]:
        parts.append(nn.Dropout2d(layer["dropout"]))
    return nn.Sequential(*parts), out


def _options(index: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a layer with the defaults, after checking its options, channels and pool."""
    for key in settings:
        if key not in LAYER_DEFAULTS:
            raise ConfigurationError(f"network.layers[{index}] has no option {key!r}{near(key, list(LAYER_DEFAULTS))}")
    layer = {**LAYER_DEFAULTS, **settings}
    if not isinstance(layer["channels"], int) or layer["channels"] < 1:
        raise ConfigurationError(
            f"network.layers[{index}].channels is {layer['channels']!r}: give a number of at least 1"
        )
    if layer["pool"] is not None and layer["pool"] not in POOLS:
        raise ConfigurationError(f"network.layers[{index}].pool is {layer['pool']!r}: write max, avg or null")
    return layer
