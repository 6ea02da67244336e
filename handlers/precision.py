"""In which precision a network answers: what this machine gains from."""

import torch

PRECISIONS = ("auto", "fp32", "bf16")


def gains_from_bf16(device: torch.device) -> bool:
    """Return whether bf16 has arithmetic of its own there; elsewhere it is emulated and slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def choose(wanted: str, device: torch.device) -> torch.dtype:
    """Return what `precision` means on this device: auto is bf16 where the machine gains from it, else float32.

    Raises:
        ValueError: an unknown precision.
    """
    if wanted not in PRECISIONS:
        raise ValueError(f"precision is {wanted!r}, must be one of {', '.join(PRECISIONS)}")
    bf16 = wanted == "bf16" or (wanted == "auto" and gains_from_bf16(device))
    return torch.bfloat16 if bf16 else torch.float32
