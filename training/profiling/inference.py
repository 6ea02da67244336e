"""Where the time of an inference goes, and what each optimisation of the network brings."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from handlers.images.limits import UNLIMITED
from handlers.network import torchscript
from handlers.network.engine import traced
from handlers.network.precision import DTYPES, by_speed
from handlers.preprocessing import Preprocess
from handlers.spec import PreprocessSpec
from training.data.decoders import decode_and_resize, read_bytes
from training.data.loaders import calibration_batches
from training.data.splits import Split
from training.data.store import PreparedDataset
from training.profiling.parts import Parts
from training.quantization import quantize

BATCH = 8  # images
WARM_UP = 3  # calls, in the last of which TorchScript fuses
LEAST, SECONDS = 3, 5.0  # calls of one form, and the time after which no further one begins

Answers = Callable[[torch.Tensor], torch.Tensor]


class Form(NamedTuple):
    """One way to run the same network: `build` may take long, and raises any error of its library."""

    title: str
    precision: str
    build: Callable[[], Answers]


def forms(
    network: nn.Module,
    data: PreparedDataset,
    split: Split,
    spec: PreprocessSpec,
    device: torch.device,
    *,
    compiled: bool,
) -> Iterator[Form]:
    """Yield the forms of a network in evaluation mode: as it is, and with each optimisation."""

    def plain(memory_format: torch.memory_format) -> Answers:
        module = network.to(device).to(memory_format=memory_format)
        return lambda images: module(images.contiguous(memory_format=memory_format))

    def served(precision: str) -> Answers:
        engine = traced(network, spec.shape, device, precision)
        engine.warm_up(BATCH)
        return engine

    def int8() -> Answers:
        pixels = Preprocess(spec)
        quantized = quantize(network.cpu(), map(pixels.normalize, calibration_batches(data, split)))
        return torchscript.frozen(torchscript.traced(quantized, spec.shape))

    def compile_network() -> Answers:
        network.to(device).to(memory_format=torch.channels_last)
        return torch.compile(network)

    yield Form("float32", "fp32", lambda: plain(torch.contiguous_format))
    yield Form("channels-last", "fp32", lambda: plain(torch.channels_last))
    if compiled:
        yield Form("torch.compile", "fp32", compile_network)
    for precision in reversed(by_speed(device)):
        yield Form(f"as served, {precision}", precision, partial(served, precision))
    if device.type == "cpu":
        yield Form("as served, int8", "int8", int8)


def rate(form: Form, spec: PreprocessSpec, device: torch.device) -> dict[str, float]:
    """Return images/s of a form in batches of `BATCH`, by the median time of a call.

    Raises:
        QuantizationError, RuntimeError, and any error of a compiler: the network does not run in this form.
    """
    answers = form.build()
    images = torch.randn(BATCH, *spec.shape, generator=torch.Generator().manual_seed(0))
    images = images.to(device, DTYPES[form.precision]).contiguous(memory_format=torch.channels_last)
    seconds: list[float] = []
    with torch.inference_mode():
        for _ in range(WARM_UP):
            answers(images)
        if device.type == "cuda":
            torch.cuda.synchronize()
        while len(seconds) < LEAST or sum(seconds) < SECONDS:
            start = time.perf_counter()
            answers(images)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return {"images_per_second": round(BATCH / statistics.median(seconds), 2)}


def encoded_images(data: PreparedDataset, split: Split) -> list[bytes]:
    """Return the bytes of up to `BATCH` training images.

    Raises:
        DatasetError: the raw images are gone.
    """
    return [read_bytes(data.raw, data.record(int(row))) for row in split.train[:BATCH]]


def parts(
    network: nn.Module, encoded: Sequence[bytes], spec: PreprocessSpec, calls: int, trace: Path
) -> dict[str, dict[str, float]]:
    """Return the median milliseconds of each part of answering encoded images on a CPU; write a Chrome trace."""
    pixels, engine, part = Preprocess(spec), traced(network, spec.shape), Parts(lambda: None)

    def answer() -> None:
        with part("decoding"):
            images = [decode_and_resize(image, spec, UNLIMITED) for image in encoded]
        with part("preprocessing"):
            inputs = engine.buffer(len(images))
            pixels.write(images, list(inputs[: len(images)]))
        with part("network"):
            engine(inputs)

    for _ in range(WARM_UP):
        answer()
    part.restart()
    for _ in range(calls):
        answer()
    measured = part.milliseconds()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        answer()
    profiled.export_chrome_trace(str(trace))
    return {"milliseconds": measured}
