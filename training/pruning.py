"""Channels that are removed from a trained network, with all weights that need them.

The only file that names `torch_pruning`, which finds what depends on a channel (Fang et al. 2023, arXiv:2301.12900).
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch_pruning
from torch import nn

from training import saving
from training.configuration import ConfigurationError
from training.narrowing import Shapes, shapes_of
from training.networks import Network

MULTIPLE = 8  # widths of layers are rounded down to multiples of this, which processors compute fast
TOLERANCE = 1e-4  # of a logit


def remove_channels(
    network: Network, rebuild: Callable[[Shapes], Network], shape: tuple[int, int, int], channels: float
) -> Shapes:
    """Remove a part of the channels of each layer, those with the smallest norms, and return the shapes of the layers.

    The number of logits stays. The shapes are those that differ from the network that `rebuild` returns for none.

    Args:
        network: in evaluation mode, on the CPU; it is changed.
        rebuild: returns a network of the same kind with layers of other shapes.
        shape: of an image, (C, S, S).
        channels: the part that is removed, in (0, 1).

    Raises:
        ConfigurationError: the network cannot be pruned.
    """
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    narrowest = min((layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)), default=0)
    try:
        torch_pruning.pruner.BasePruner(
            network,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=channels,
            ignored_layers=[network.head],
            round_to=MULTIPLE if narrowest * (1 - channels) >= MULTIPLE else None,
        ).step()
        shapes = shapes_of(network, rebuild({}))
        _check(network, rebuild(shapes), example)
    except Exception as error:  # it walks through the code of any network
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigurationError(f"this network cannot be pruned ({reason}): choose one of convolutions") from error
    return shapes


@torch.no_grad()
def _check(network: Network, rebuilt: Network, example: torch.Tensor) -> None:
    """Raise an error if the shapes of its layers do not say all about a pruned network."""
    rebuilt.load_state_dict(network.state_dict())
    if not torch.allclose(rebuilt.eval()(example), network(example), atol=TOLERANCE, rtol=TOLERANCE):
        raise ValueError("its parts depend on more than the shapes of its layers")


def save(network: Network, path: Path) -> None:
    """Write the weights that fine-tuning starts from."""
    saving.save({"state_dict": network.state_dict()}, path)
