"""Optimizers and learning-rate schedules, by configuration name."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from training.configuration import ConfigurationError


def make_optimizer(network: nn.Module, trainer: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Return `trainer.optimizer` over all weights; vectors (norms, biases, tokens) do not decay.

    Raises:
        ConfigurationError: an unknown optimizer.
    """
    weights = list(network.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": trainer["weight_decay"]},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
    ]
    if trainer["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=trainer["lr"], momentum=trainer["momentum"], nesterov=trainer["momentum"] > 0)
    if trainer["optimizer"] == "adamw":
        return torch.optim.AdamW(groups, lr=trainer["lr"])
    raise ConfigurationError(f"trainer.optimizer is {trainer['optimizer']!r}: write sgd or adamw")


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
        return OneCycleLR(
            optimizer, max_lr=float(trainer["lr"]), total_steps=max(2, steps), pct_start=max(warmup, 1e-3)
        )
    if kind not in ("cosine", "constant"):
        raise ConfigurationError(f"trainer.schedule is {kind!r}: write onecycle, cosine or constant")
    rising = warmup * steps

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        progress = min(1.0, (step - rising) / max(1.0, steps - rising))
        return 1.0 if kind == "constant" else 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
