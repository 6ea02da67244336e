"""Turn torch's various out-of-memory errors into `torch.OutOfMemoryError`.

TorchScript's interpreter, nvJPEG's binding and the pinning of memory raise a RuntimeError that has it in its text;
CUDA's libraries report it by their status.
"""

import contextlib
from collections.abc import Iterator

import torch

WORDS = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED")


@contextlib.contextmanager
def out_of_memory_errors() -> Iterator[None]:
    """Raise OutOfMemoryError, with the one line that says so, for any error that means it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        for line in str(error).splitlines():
            if any(word in line for word in WORDS):
                raise torch.OutOfMemoryError(line.strip()) from error
        raise
