"""Optimizers and learning-rate schedules, by configuration name."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from training.configuration import ConfigurationError


def make_optimizer(network: nn.Module, trainer: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Return `trainer.optimizer` over all weights that learn; vectors (norms, biases, tokens) do not decay.

    With `trainer.layer_decay` d, a layer that is n layers before the head learns at d**n of the rate.

    Raises:
        ConfigurationError: an unknown optimizer.
    """
    groups = [group for weights, rate in _rates(network, trainer) for group in _decaying(weights, rate, trainer)]
    if trainer["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=trainer["lr"], momentum=trainer["momentum"], nesterov=trainer["momentum"] > 0)
    if trainer["optimizer"] == "adamw":
        return torch.optim.AdamW(groups, lr=trainer["lr"])
    raise ConfigurationError(f"trainer.optimizer is {trainer['optimizer']!r}: write sgd or adamw")


def layers(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the weights of each layer by its name, from the input to the head."""
    named: dict[str, list[nn.Parameter]] = {}
    for name, weight in network.named_parameters():
        # "body.blocks.3.0.conv_pw.weight" is of the layer "body.blocks.3".
        parts = name.split(".")
        depth = 1 if parts[0] != "body" else 3 if len(parts) > 3 and parts[2].isdigit() else 2
        named.setdefault(".".join(parts[:depth]), []).append(weight)
    return named


def _rates(network: nn.Module, trainer: Mapping[str, Any]) -> list[tuple[list[nn.Parameter], float]]:
    """Return the weights that learn with their learning rates; all of them in one group without `layer_decay`."""
    decay, rate = trainer.get("layer_decay") or 1.0, trainer["lr"]
    groups = list(layers(network).values()) if decay != 1.0 else [list(network.parameters())]
    return [(_learning(group), rate * decay ** (len(groups) - 1 - place)) for place, group in enumerate(groups)]


def _learning(weights: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    return [weight for weight in weights if weight.requires_grad]


def _decaying(weights: Sequence[nn.Parameter], rate: float, trainer: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": trainer["weight_decay"], "lr": rate},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0, "lr": rate},
    ]
    return [group for group in groups if group["params"]]


def make_schedule(optimizer: torch.optim.Optimizer, trainer: Mapping[str, Any], steps: int) -> LRScheduler:
    """Return `trainer.schedule` over `steps` batches, with `trainer.warmup` as its rising part, in [0, 1).

    onecycle also moves the momentum against the rate (Smith and Topin 2017, arXiv:1708.07120); cosine falls to 0;
    constant stays after the warm-up.

    Raises:
        ConfigurationError: an unknown schedule or an impossible warm-up.
    """
    warmup, kind = float(trainer["warmup"]), trainer["schedule"]
    if not 0 <= warmup < 1:
        raise ConfigurationError(f"trainer.warmup is {warmup}: write a part of all steps, at least 0 and below 1")
    if kind == "onecycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, max_lr=rates, total_steps=max(2, steps), pct_start=max(warmup, 1e-3))
    if kind not in ("cosine", "constant"):
        raise ConfigurationError(f"trainer.schedule is {kind!r}: write onecycle, cosine or constant")
    rising = warmup * steps

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        progress = min(1.0, (step - rising) / max(1.0, steps - rising))
        return 1.0 if kind == "constant" else 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
