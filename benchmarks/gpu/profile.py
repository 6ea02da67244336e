"""Measure the time of a batch on a device by stage and by kernel, in process, without a server.

Used by `benchmarks.gpu.ceilings`. The clocks wait for the device around each stage, so that its kernels count for the
stage that started them, and stages do not overlap. Kernels are those of torch's profiler, without the clocks.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import kornia.enhance
import torch

from handlers.classifier import Classifier
from handlers.images import decoder, nvjpeg, resampling
from handlers.network.engine import Engine
from handlers.preprocessing import Preprocess

# Stage -> its functions on a GPU and on a CPU
STAGES: dict[str, tuple[tuple[Any, str], ...]] = {
    "decode": ((nvjpeg, "decode"), (decoder, "decode")),
    "crop and resize": ((resampling, "resize"), (Preprocess, "resize")),
    "normalise": ((kornia.enhance, "normalize"), (Preprocess, "write")),
    "network": ((Engine, "run_async"),),
}
REST = "the rest"
BATCHES, KERNELS = 5, 12  # batches of a mean; kernels in the result


def wait(device: torch.device) -> None:
    """Wait for the queued kernels of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def profile(classifier: Classifier, bodies: Sequence[bytes]) -> dict[str, Any]:
    """Return the mean milliseconds of each stage of a batch of encoded images, and of the kernels that take longest.

    The batch is at most one part (`handlers.images.prefetch`), so that no other thread decodes meanwhile; the
    classifier is warmed up.
    """
    device = classifier.device

    def batches() -> float:
        wait(device)
        start = time.perf_counter()
        for _ in range(BATCHES):
            classifier.classify(bodies)
        wait(device)
        return 1000 * (time.perf_counter() - start) / BATCHES

    batches()
    without_clocks = batches()
    with _clocks(device) as spent:
        total = batches()
    stages = {stage: 1000 * seconds / BATCHES for stage, seconds in spent.items()}
    stages[REST] = total - sum(stages.values())
    return {
        "batch": len(bodies),
        "milliseconds": {stage: round(milliseconds, 3) for stage, milliseconds in stages.items()},
        "without_clocks": round(without_clocks, 3),
        "kernels": _kernels(batches, device),
    }


@contextlib.contextmanager
def _clocks(device: torch.device) -> Iterator[dict[str, float]]:
    """Put a clock around each stage; yield the seconds of each."""
    spent = dict.fromkeys(STAGES, 0.0)

    def timed(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        def call(*arguments: Any, **options: Any) -> Any:
            wait(device)
            start = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                wait(device)
                spent[stage] += time.perf_counter() - start

        return call

    with contextlib.ExitStack() as stack:
        for stage, places in STAGES.items():
            for owner, name in places:
                stack.enter_context(mock.patch.object(owner, name, timed(stage, getattr(owner, name))))
        yield spent


def _kernels(batches: Callable[[], object], device: torch.device) -> list[dict[str, Any]]:
    """Return the kernels that take longest, milliseconds and calls a batch; on a CPU, torch's operators."""
    on_gpu = device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        batches()
    kernels = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count, event.key)
        for event in profiler.key_averages()
        if event.device_type.name == ("CUDA" if on_gpu else "CPU")
    ]
    return [
        {"name": name[:120], "milliseconds": round(spent / 1000 / BATCHES, 4), "calls": round(count / BATCHES, 1)}
        for spent, count, name in sorted(kernels, reverse=True)[:KERNELS]
    ]
