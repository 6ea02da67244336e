"""In which precision a network answers: what this machine gains from."""

import torch

PRECISIONS = ("auto", "fp32", "bf16", "int8")
# What the network's weights and inputs are; a quantized one takes float32 and rounds it itself.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}


def gains_from_bf16(device: torch.device) -> bool:
    """Return whether bf16 has arithmetic of its own there; elsewhere it is emulated and slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def choose(wanted: str, device: torch.device) -> str:
    """Return what `precision` means on this device: auto is bf16 where the machine gains from it, else fp32.

    Raises:
        ValueError: an unknown precision, or int8 on another device than a CPU.
    """
    if wanted not in PRECISIONS:
        raise ValueError(f"precision is {wanted!r}, must be one of {', '.join(PRECISIONS)}")
    if wanted == "int8" and device.type != "cpu":
        raise ValueError("precision is 'int8', which runs on a CPU alone: set handler.precision to auto")
    if wanted == "auto":
        return "bf16" if gains_from_bf16(device) else "fp32"
    return wanted
