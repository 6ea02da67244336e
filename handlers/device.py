"""The device of a worker, the GPU that it was given or the CPU, and how it reports missing memory."""

import contextlib
import logging
from collections.abc import Iterator

import torch

# TorchScript's interpreter, nvJPEG's binding and the pinning of memory raise a RuntimeError that has the first in its
# text; CUDA's libraries report the others as their status.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED")


class DeviceError(Exception):
    """There is no such device, or it does not compute; the message says what to do."""


def choose_device(setting: str, server_device: str, *, gpu_capable: bool = True) -> torch.device:
    """Return what `handler.device` means for a worker to which the server gave a device: "cpu", or "cuda:0".

    "auto" is a GPU that was given, and the CPU if that GPU does not compute; the log says so. A network that is not
    `gpu_capable` runs on the CPU.

    Raises:
        DeviceError: "cuda" is wanted, and there is none that computes.
    """
    cpu = torch.device("cpu")
    if setting == "cpu" or (setting == "auto" and not gpu_capable):
        return cpu
    reason = "the server gave this worker none"
    if (device := torch.device(server_device)).type == "cuda":
        fault = fault_of(device) if torch.cuda.is_available() else "torch finds none"
        if fault is None:
            return device
        reason = fault
    if setting == "cuda":
        raise DeviceError(f"handler.device is cuda, and there is no GPU ({reason}): set it to auto, or mend the GPU")
    if device.type == "cuda":
        logging.getLogger(__name__).warning("no usable GPU, serving on the CPU: %s", reason)
    return cpu


def fault_of(device: torch.device) -> str | None:
    """Return why a device does not compute, in one line, or None if it does.

    After an error that is not about memory, CUDA answers a process with that error for ever.
    """
    try:
        torch.ones(1, device=device).add_(1).item()
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None


@contextlib.contextmanager
def out_of_memory_errors() -> Iterator[None]:
    """Turn torch's various out-of-memory errors into `torch.OutOfMemoryError`, with the one line that says so."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        for line in str(error).splitlines():
            if any(words in line for words in OUT_OF_MEMORY):
                raise torch.OutOfMemoryError(line.strip()) from error
        raise
