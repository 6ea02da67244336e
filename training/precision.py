"""Where the network runs, and in which precision: what this machine gains from."""

import os

import torch

from training.configuration import ConfigurationError


def choose_device(wanted: str) -> torch.device:
    """Return the device of `trainer.device`: auto takes the GPU where there is one.

    Raises:
        ConfigurationError: an unknown device, or one that this machine lacks.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("trainer.device is cuda, and torch finds no GPU here: set trainer.device=auto")
    if wanted not in ("cpu", "cuda"):
        raise ConfigurationError(f"trainer.device is {wanted!r}: write auto, cpu or cuda")
    return torch.device(wanted)


def gains_from_bf16(device: torch.device) -> bool:
    """Return whether bf16 has arithmetic of its own there; elsewhere it is emulated and slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def choose_bf16(wanted: str, device: torch.device) -> bool:
    """Return whether `trainer.precision` means bf16 on this device.

    Raises:
        ConfigurationError: an unknown precision.
    """
    if wanted not in ("auto", "fp32", "bf16"):
        raise ConfigurationError(f"trainer.precision is {wanted!r}: write auto, fp32 or bf16")
    return wanted == "bf16" or (wanted == "auto" and gains_from_bf16(device))


def use_all_cores() -> None:
    """Let torch use every core that this process may, unless OMP_NUM_THREADS says how many."""
    threads = os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(int(threads) if threads else len(os.sched_getaffinity(0)))
