"""The precision in which a network answers, and the order in which a worker tries devices and precisions."""

import logging

import torch

# The type of the network's weights and inputs; a quantized network takes float32 and rounds it itself.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
TENSOR_CORES = (7, 0)  # compute capability of the first GPUs with tensor cores: Volta (CUDA C++ guide, 17.2)


def gains_from_bf16(device: torch.device) -> bool:
    """Return whether the device computes bf16 natively; emulated bf16 is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def multiplies_bytes() -> bool:
    """Return whether the processor sums products of 8-bit integers in 32 bits, as VNNI and AMX do.

    Without these instructions the sum of two products saturates at 16 bits: activations then get 7 bits.
    """
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def by_speed(device: torch.device) -> list[str]:
    """Return the precisions that a device gains from, the first choice first, and float32.

    On a GPU fp16 is the first: as fast as bf16 with three more mantissa bits, but a smaller range.
    """
    fp16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= TENSOR_CORES
    return [*(["fp16"] if fp16 else []), *(["bf16"] if gains_from_bf16(device) else []), "fp32"]


def choose_precision(setting: str, device: torch.device) -> str:
    """Return the precision of one classifier on this device: the setting, or the fastest one for "auto".

    A worker falls back to others: see `candidates`.

    Raises:
        ValueError: an unknown precision, int8 on a GPU, or fp16 on a CPU.
    """
    if setting not in ("auto", *DTYPES):
        raise ValueError(f"precision is {setting!r}, must be one of auto, {', '.join(DTYPES)}")
    elsewhere = {"int8": "cpu", "fp16": "cuda"}.get(setting, device.type)
    if elsewhere != device.type:
        where = "a CPU" if elsewhere == "cpu" else "a GPU"
        raise ValueError(f"precision is {setting!r}, which runs on {where} only: set handler.precision to auto")
    return by_speed(device)[0] if setting == "auto" else setting


def candidates(precision: str, device: torch.device, *, only: bool) -> list[tuple[torch.device, str]]:
    """Return the devices and precisions to try, in order, for a worker that was given `device`.

    "auto" is each precision that a device gains from, the fastest first. Without `only` (the archive names no device)
    the CPU comes after a GPU, and fp16, which needs a GPU, is "auto" there.
    """
    cpu = torch.device("cpu")
    devices = [device] if only or device.type == "cpu" else [device, cpu]
    if precision == "fp16" and devices == [cpu] and not only:
        logging.getLogger(__name__).warning("fp16 needs a GPU: using precision=auto on the CPU")
    return [(target, name) for target in devices for name in _precisions(precision, target, only=only)]


def _precisions(setting: str, device: torch.device, *, only: bool) -> list[str]:
    """Return the precisions to try on a device; see `candidates`."""
    fp16_on_cpu = setting == "fp16" and device == torch.device("cpu")
    return by_speed(device) if setting == "auto" or (fp16_on_cpu and not only) else [setting]
