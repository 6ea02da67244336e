"""Where the network runs, and in which precision: what this machine gains from."""

import os

import torch

from handlers.machine import cores
from handlers.network import precision
from training.configuration import ConfigurationError


def choose_device(setting: str) -> torch.device:
    """Return the device of `trainer.device`: auto takes the GPU if the machine has one.

    Raises:
        ConfigurationError: an unknown device, or one that this machine lacks.
    """
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if setting == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("trainer.device is cuda, and torch finds no GPU here: set trainer.device=auto")
    if setting not in ("cpu", "cuda"):
        raise ConfigurationError(f"trainer.device is {setting!r}: write auto, cpu or cuda")
    return torch.device(setting)


def choose_bf16(setting: str, device: torch.device) -> bool:
    """Return whether `trainer.precision` means bf16 on this device.

    Raises:
        ConfigurationError: an unknown precision, or one that nothing is trained in.
    """
    if setting in ("int8", "fp16"):
        reason = (
            "which is made of a trained network" if setting == "int8" else "whose gradients would need to be scaled"
        )
        raise ConfigurationError(f"trainer.precision is {setting!r}, {reason}: write auto")
    if setting == "auto":
        return precision.gains_from_bf16(device)
    try:
        return precision.choose_precision(setting, device) == "bf16"
    except ValueError as error:
        raise ConfigurationError(f"trainer.{error}") from error


def use_all_cores() -> None:
    """Let torch use every core that this process may, unless OMP_NUM_THREADS says how many."""
    threads = os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(int(threads) if threads else cores())
