"""Measure each stage of an answer separately, on a GPU or the CPU: decoding, preprocessing, the network, copies.

    python -m benchmarks.gpu.ceilings RUN --device cuda --bodies FOLDER [--bodies FOLDER ...] [--seconds 2]

Each is a loop over batches of 64, whose earlier stages are computed before, and waits for the device at the end. Then
all stages in process, and the agreement of labels with float32 on the CPU, which decodes every JPEG file by libjpeg;
finally the time of a batch by stage and kernel (`benchmarks.gpu.profile`). All rates are images a second. Each line is
one JSON document of the results so far.
"""

import argparse
import contextlib
import importlib
import itertools
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_runs import CLASSES
from benchmarks.comparison.in_process import read
from benchmarks.gpu.page import ALL, RESIZED
from benchmarks.gpu.profile import profile, wait
from benchmarks.harness import console
from handlers.classifier import Classifier
from handlers.images import nvjpeg
from handlers.images.decoder import Decoder
from handlers.images.decoding import decode
from handlers.images.limits import DEFAULT_LIMITS
from handlers.images.prefetch import PART_IMAGES, Prefetcher
from handlers.machine import cores
from handlers.network import torchscript
from handlers.network.engine import Engine, optimized
from handlers.network.precision import by_speed
from handlers.preprocessing import Preprocess
from handlers.run_folder import RunFolder
from synthetic import places365

BATCH = 64
WARM_UP = 3  # batches


def rate(work: Callable[[], object], images: int, device: torch.device, seconds: float) -> float:
    """Return images a second of a function that processes `images` images a call."""
    for _ in range(WARM_UP):
        work()
    wait(device)
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        work()
        calls += 1
        if calls % 8 == 0:
            wait(device)  # for the queued kernels
    wait(device)
    return round(images * calls / (time.perf_counter() - start), 1)


def decoding(bodies: Sequence[bytes], device: torch.device, seconds: float) -> float:
    """Return images a second of the device's decoder; on the CPU libjpeg replaces nvJPEG."""
    return rate(lambda: nvjpeg.decode(bodies, "rgb", device), len(bodies), device, seconds)


def decoding_on_cpu(bodies: Sequence[bytes], preprocess: Preprocess, seconds: float) -> float:
    """Return images a second of the decoder on the CPU, with a thread for each core, resizing included."""
    decoder = Decoder(preprocess, DEFAULT_LIMITS, cores())
    return rate(lambda: decoder.decode(bodies), len(bodies), torch.device("cpu"), seconds)


def _nvimgcodec(bodies: Sequence[bytes], device: torch.device) -> Callable[[], object]:
    """Return a call of NVIDIA's nvImageCodec.

    Raises:
        ImportError: it is not installed, or the device is not a GPU.
    """
    if device.type != "cuda":
        raise ImportError("nvImageCodec needs a GPU")
    library: Any = importlib.import_module("nvidia.nvimgcodec")
    decoder = library.Decoder(device_id=device.index or 0)
    return lambda: [torch.utils.dlpack.from_dlpack(image.to_dlpack()) for image in decoder.decode(list(bodies))]


def preprocessing(preprocess: Preprocess, size: tuple[int, int], seconds: float) -> dict[str, float]:
    """Return images a second of resizing with normalising, and of only Kornia's normalising, from decoded images."""
    device = preprocess.mean.device
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    images = list(torch.randint(0, 256, (BATCH, preprocess.spec.channels, *size), dtype=torch.uint8, device=device))
    sizes = [tuple(round(side * (0.5 + place / BATCH)) for side in size) for place in range(BATCH)]
    mixed = [image.repeat(1, 2, 2)[:, :height, :width] for image, (height, width) in zip(images, sizes, strict=True)]
    small = preprocess.resize_all(images, dtype)
    works = {
        RESIZED: lambda: preprocess.normalize(preprocess.resize_all(images, dtype), dtype),
        f"{RESIZED}, of {BATCH} sizes": lambda: preprocess.normalize(preprocess.resize_all(mixed, dtype), dtype),
        "normalise": lambda: preprocess.normalize(small, dtype),
    }
    return {name: rate(work, BATCH, device, seconds) for name, work in works.items()}


def copies(shape: tuple[int, int, int], device: torch.device, seconds: float) -> float:
    """Return images a second from the CPU's memory, pinned, to the device's."""
    images = torch.zeros((BATCH, *shape), dtype=torch.uint8)
    if device.type == "cuda":
        images = images.pin_memory()
    target = torch.empty_like(images, device=device)
    return rate(lambda: target.copy_(images, non_blocking=True), BATCH, device, seconds)


def network(path: Path, device: torch.device, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield a row of images a second for each precision and batch size, with CUDA graphs.

    The fastest precision, whose rows are the first, is also measured without.
    """
    shape = torchscript.load(path).spec.preprocess.shape
    fastest, *slower = by_speed(device)
    kinds = [(fastest, True), (fastest, False), *((precision, True) for precision in slower)]
    for precision, recorded in kinds if device.type == "cuda" else [(fastest, False)]:
        engine = Engine(optimized(torchscript.load(path, device).module, device, precision), shape, device, precision)
        sizes = [size for size in engine.sizes if size in (1, 8, engine.sizes[-1])]
        engine.warm_up(engine.sizes[-1], record=recorded)
        for size in sizes:
            inputs = engine.buffer(size).normal_()  # a GPU draws less power over zeros, and computes faster
            speed = rate(lambda: engine.run_async(inputs), size, device, seconds)  # noqa: B023 - called at once
            yield {"precision": precision, "batch": size, "graph": recorded, "images_per_second": speed}


def in_process(
    path: Path, bodies: Sequence[bytes], device: torch.device, precision: str, seconds: float
) -> Iterator[tuple[str, float]]:
    """Yield images a second from JPEG bodies to labels: single batches as a worker gets them, in parts or whole.

    The last one is a stream of batches, with the next one decoded while the network computes.
    """
    classifier = Classifier(path, device=device, threads=cores(), precision=precision)
    classifier.warm_up(BATCH)
    endless = itertools.cycle(bodies)
    batches = itertools.cycle([list(itertools.islice(endless, BATCH)) for _ in range(4)])
    for name, part in (
        (ALL, PART_IMAGES),
        (f"{ALL}, whole batches", BATCH),
        (f"{ALL}, parts of {PART_IMAGES // 2}", PART_IMAGES // 2),
    ):
        classifier.ahead = Prefetcher(classifier.decoder.decode, device, part)
        yield name, rate(lambda: classifier.classify(next(batches)), BATCH, device, seconds)
    stream = classifier.classify_all(batches)
    yield f"{ALL}, a stream of batches", rate(lambda: next(stream), BATCH, device, seconds)


def scenes(count: int) -> list[bytes]:
    """Return `count` different drawn JPEG files of the classes of `benchmarks.bench_runs`."""
    scenes = [(places365.class_numbers(CLASSES)[number % CLASSES], 1, number // CLASSES) for number in range(count)]
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(_scene, scenes, chunksize=16))


def _scene(scene: tuple[int, int, int]) -> bytes:
    label, side, number = scene
    return places365.image(0, label, side, number, 320)


def agreement(path: Path, bodies: Sequence[bytes], device: torch.device, precision: str) -> dict[str, float]:
    """Return the share of best labels equal to those of float32 on the CPU, and the largest probability difference."""
    ours = Classifier(path, device=device, precision=precision, threads=cores())
    ours.warm_up(BATCH)  # first: it switches TorchScript's fusers for the whole process
    reference = Classifier(path, precision="fp32", threads=cores())
    same, largest = 0, 0.0
    for start in range(0, len(bodies), BATCH):
        rows = []
        for classifier in (ours, reference):
            decoded = classifier.decode(bodies[start : start + BATCH])
            rows.append(classifier.predict([image for image in decoded if isinstance(image, torch.Tensor)]))
        same += int((rows[0].argmax(1) == rows[1].argmax(1)).sum())
        largest = max(largest, float((rows[0] - rows[1]).abs().max()))
    return {"images": len(bodies), "same_top1": round(same / len(bodies), 5), "largest_difference": round(largest, 5)}


class Measurements:
    """The figures so far, and the reasons of stages that failed, which do not affect the others."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {"batch": BATCH, "bodies": {}, "network": [], "reasons": {}}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run one stage; if it fails, record the reason."""
        try:
            yield
        except Exception as error:  # of nvJPEG, CUDA, another decoder
            self.document["reasons"][name] = (str(error) or type(error).__name__).partition("\n")[0]
            print(f"{name}: not measured: {error}", file=sys.stderr)


def measure(
    path: Path, folders: Sequence[Path], device: torch.device, seconds: float, distinct: int, measured: Measurements
) -> None:
    """Add all figures to `measured`, those with goals first."""
    preprocess = Preprocess(torchscript.load(path).spec.preprocess)
    on_device = Preprocess(preprocess.spec).to(device)
    document = measured.document
    document["precision"] = precision = by_speed(device)[0]
    for folder in folders:
        stages = document["bodies"].setdefault(folder.name, {"decode": {}})
        bodies = list(itertools.islice(itertools.cycle(read(folder)), BATCH))
        height, width = decode(bodies[0]).shape[-2:]
        with measured.stage(f"{folder.name}, all in process"):
            for name, speed in in_process(path, bodies, device, precision, seconds):
                stages[name] = speed
        with measured.stage(f"{folder.name}, decoding"):
            stages["decode"]["nvJPEG, through torchvision"] = decoding(bodies, device, seconds)
        with measured.stage(f"{folder.name}, preprocessing"):
            stages["preprocess"] = preprocessing(on_device, (height, width), seconds)
        with measured.stage(f"{folder.name}, nvImageCodec"):
            stages["decode"]["nvImageCodec"] = rate(_nvimgcodec(bodies, device), len(bodies), device, seconds)
        with measured.stage(f"{folder.name}, decoding on the CPU"):
            stages["decode and resize on the CPU"] = decoding_on_cpu(bodies, preprocess, seconds)
        print(f"{folder.name}: {json.dumps(stages)}", file=sys.stderr)
    if distinct:
        with measured.stage("agreement"):
            document["agreement"] = agreement(path, scenes(distinct), device, precision)
    with measured.stage("copies"):
        document["copies"] = copies(preprocess.spec.shape, device, seconds)
    with measured.stage("network"):
        for row in network(path, device, seconds):
            document["network"].append(row)
    if device.type == "cuda":
        document["memory_mb"] = round(torch.cuda.max_memory_reserved(device) / 2**20)
    print(json.dumps(document), flush=True)  # printed even if the profiler ends the process
    for folder in folders:
        with measured.stage(f"{folder.name}, profile"):
            classifier = Classifier(path, device=device, threads=1, precision=precision)
            classifier.warm_up(PART_IMAGES)
            bodies = list(itertools.islice(itertools.cycle(read(folder)), PART_IMAGES))
            document["bodies"][folder.name]["profile"] = profile(classifier, bodies)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = console.parser("gpu.ceilings", __doc__)
    parser.add_argument("run", type=Path, help="folder of a run, with model.pt")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--bodies", type=Path, action="append", required=True, help="folder of JPEG files of one size")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of each loop")
    parser.add_argument(
        "--distinct", type=int, default=1000, help="number of drawn images whose labels are compared, or 0"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    options = parsed(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: --device cuda needs a GPU, and torch finds none here", file=sys.stderr)
        return 1
    device = torch.device("cuda:0" if options.device == "cuda" else "cpu")
    measured = Measurements()
    try:
        measure(RunFolder(options.run).model, options.bodies, device, options.seconds, options.distinct, measured)
    except KeyboardInterrupt:
        measured.document["reasons"]["the rest"] = "interrupted"
    print(json.dumps(measured.document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
