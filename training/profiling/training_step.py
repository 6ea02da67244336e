"""Where the time of a training step goes, and what each optimisation brings."""

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from handlers.network.precision import gains_from_bf16
from handlers.spec import PreprocessSpec
from training import loop
from training.data.batches import Batch
from training.data.splits import Split
from training.data.store import PreparedDataset
from training.pace import Stepper
from training.profiling.parts import Parts

WARM_UP, LEAST = 1, 3  # steps
SECONDS = 20.0  # of the steps of one form, after which no further one begins


class Form(NamedTuple):
    """One way to train the same network."""

    title: str
    channels_last: bool
    bf16: bool
    compiled: bool


def forms(device: torch.device, *, compiled: bool) -> list[Form]:
    """Return the forms, each with one more optimisation than the one before it."""
    bf16 = gains_from_bf16(device)
    ladder = [Form("float32", False, False, False), Form("channels-last", True, False, False)]
    ladder += [Form("bf16", True, True, False)] if bf16 else []
    return [*ladder, *([Form("torch.compile", True, bf16, True)] if compiled else [])]


def measure(
    settings: Mapping[str, Any],
    data: PreparedDataset,
    split: Split,
    spec: PreprocessSpec,
    form: Form,
    steps: int,
    trace: Path | None = None,
) -> dict[str, Any]:
    """Return images/s of a form, and the median milliseconds of each part of a step; write its Chrome trace.

    `settings` are those of a run. Another program that computes at the same time slows a step.

    Raises:
        RuntimeError, and any error of a compiler: the network cannot be trained in this form.
    """
    stepper = _stepper(settings, data, spec, form)
    parts = Parts(stepper.wait)
    stepper.module.part = parts
    batches = _endless(loop.batches(settings, data, split, stepper.module, stepper.device)[0])
    start, images, count = 0.0, 0, 0
    for number in range(WARM_UP + steps):
        if number == WARM_UP:
            parts.restart()
            start = time.perf_counter()
        elif number >= WARM_UP + LEAST and time.perf_counter() - start > SECONDS:
            break
        size = _step(stepper, parts, batches)
        images, count = (images + size, count + 1) if number >= WARM_UP else (0, 0)
    elapsed, milliseconds = time.perf_counter() - start, parts.milliseconds()
    if trace is not None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if stepper.device.type == "cuda" else [])]
        with profile(activities=activities) as profiled:
            _step(stepper, parts, batches)
        profiled.export_chrome_trace(str(trace))
    rate = round(images / elapsed, 2)
    return {"images_per_second": rate, "milliseconds": milliseconds, "steps": count, "batch": images // count}


def _stepper(settings: Mapping[str, Any], data: PreparedDataset, spec: PreprocessSpec, form: Form) -> Stepper:
    precision = "bf16" if form.bf16 else "fp32"
    stepper = Stepper({**settings, "trainer": {**settings["trainer"], "precision": precision}}, data.classes, spec)
    module = stepper.module
    if not form.channels_last:
        module.memory_format = torch.contiguous_format
        module.network.to(memory_format=torch.contiguous_format)
    module.on_train_epoch_start()
    if form.compiled:
        module.network.compile()
    return stepper


def _step(stepper: Stepper, parts: Parts, batches: Iterator[Batch]) -> int:
    """Train one step; return the number of its images."""
    with parts("loader"):
        batch = stepper.on_device(next(batches))
    stepper.step(batch)
    return len(batch[0])


def _endless(batches: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        yield from batches
