"""How much faster is int8, and how accurate? ResNet-18, 224 x 224, 12 classes, on one core of a CPU.

    uv pip install torchao              the second implementation of int8; without it the result names it as missing
    python -m benchmarks.int8 [--rounds 9] [--images 16]

Four kinds of one network take turns, in batches of 1, 8 and 16:

    fp32, bf16      `handlers.network.engine.Engine`: TorchScript, frozen, bf16 and fp32 fused by oneDNN
    int8            the same engine, network from `training.quantization` (torch.ao's FX form, deprecated in torch)
    int8, torchao   torchao's PT2E form for X86InductorQuantizer, behind torch.compile with frozen weights

The network is the one that `benchmarks.serving` serves, trained once. The change of answers is measured on drawn scenes
that were used neither for training nor for calibration. Prints a table and, as its last line, one JSON document; writes
benchmarks/results/int8.json.
"""

import importlib
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import bench_runs
from benchmarks.harness import console, resnet
from benchmarks.interleave import Work, one_core, take_turns, versions
from benchmarks.result import TRAINING, Origin
from handlers.network import torchscript
from handlers.network.engine import Engine, optimized
from handlers.network.precision import gains_from_bf16
from handlers.run_folder import RunFolder
from handlers.spec import Spec
from training.quantization import QuantizationError, quantize
from training.run import machine

RESULT = Path("benchmarks/results/int8.json")
BATCHES, TURN = (1, 8, 16), 0.2  # images, seconds
PACKAGES = ("torch", "torchao")
TORCHAO = "int8, torchao"

# Normalised images (B, C, S, S) to the network's inputs, and those to logits (B, K).
Step = Callable[[torch.Tensor], torch.Tensor]
Kind = tuple[Step, Step]


class UnavailableError(Exception):
    """A kind of int8 is not available; the message says why and what to do."""


def ours(network: nn.Module, spec: Spec, precision: str, calibration: torch.Tensor, folder: Path) -> Kind:
    """Return the engine of a worker in one precision, warmed up.

    Raises:
        UnavailableError: this build of torch has no int8 layers.
    """
    path = folder / "model.pt"
    if precision == "int8":
        try:
            torchscript.save_quantized(quantize(network, resnet.batches(calibration)), spec, path)
        except QuantizationError as error:
            raise UnavailableError(str(error)) from error
        path = torchscript.quantized(path)
    else:
        torchscript.save(network, spec, path)
    cpu = torch.device("cpu")
    engine = Engine(optimized(torchscript.load(path).module, cpu, precision), spec.preprocess.shape, cpu, precision)
    engine.warm_up(max(BATCHES))

    def inputs(images: torch.Tensor) -> torch.Tensor:
        buffer = engine.buffer(len(images))
        buffer[: len(images)] = images
        return buffer

    return inputs, engine


def torchao(network: nn.Module, calibration: torch.Tensor) -> Kind:
    """Return torchao's int8 form, compiled for each of `BATCHES`.

    Raises:
        UnavailableError: torchao is not installed, or does not fit this torch.
    """
    try:
        pt2e: Any = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
        x86: Any = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    except ModuleNotFoundError as error:
        raise UnavailableError(f"not installed ({error.name}): uv pip install torchao") from error
    try:
        example = calibration[:2].contiguous(memory_format=torch.channels_last)
        batch: Any = torch.export.Dim("batch", min=1, max=1024)
        # Strict: the quantizer does not find modules by the source names that plain tracing records.
        exported: Any = torch.export.export(network, (example,), dynamic_shapes=({0: batch},), strict=True)
        quantizer: Any = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = pt2e.prepare_pt2e(exported.module(), quantizer)
        for images in resnet.batches(calibration):
            prepared(images)
        compiled: Any = torch.compile(pt2e.convert_pt2e(prepared), dynamic=False)
        for size in BATCHES:
            compiled(example[:1].repeat(size, 1, 1, 1).contiguous(memory_format=torch.channels_last))
    except Exception as error:  # a torchao for another torch, no C++ compiler: the exceptions differ
        reason = str(error).strip().partition("\n")[0][:200]
        raise UnavailableError(f"{type(error).__name__}: {reason}") from error
    return lambda images: images.contiguous(memory_format=torch.channels_last), compiled


def answers(kind: Kind, images: torch.Tensor) -> torch.Tensor:
    """Return the probabilities (N, K), in batches of the largest of `BATCHES`; the last one is padded."""
    inputs, network = kind
    largest, logits = max(BATCHES), []
    for part in resnet.batches(images, largest):
        whole = torch.cat([part, part[:1].expand(largest - len(part), -1, -1, -1)])
        logits.append(network(inputs(whole))[: len(part)].float())
    return torch.cat(logits).softmax(dim=1)


def agreement(expected: torch.Tensor, actual: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Return the agreement of best labels with fp32, the accuracy, and the differences of probabilities."""
    return {
        "images": len(actual),
        "same_top1": int((actual.argmax(1) == expected.argmax(1)).sum()),
        "top1": resnet.accuracy(actual, labels),
        "largest_difference": float((actual - expected).abs().max()),
        "mean_difference": float((actual - expected).abs().mean()),
    }


def speeds(kinds: dict[str, Kind], images: torch.Tensor, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each kind and batch size."""
    rows = []
    for batch in BATCHES:
        works: dict[str, Work] = {
            name: partial(network, inputs(images[:batch])) for name, (inputs, network) in kinds.items()
        }
        for name, seconds in take_turns(works, rounds, TURN).items():
            paces = [round(batch / time, 1) for time in seconds]
            rows.append(
                {
                    "kind": name,
                    "batch": batch,
                    "images_per_second": statistics.median(paces),
                    "range": [min(paces), max(paces)],
                    "rounds": paces,
                }
            )
    return rows


def show(document: dict[str, Any]) -> None:
    """Print the table."""
    rows = []
    for name, answer in document["answers"].items():
        paces = [row for row in document["rows"] if row["kind"] == name]
        cells = ["{:.0f} ({:.0f} to {:.0f})".format(row["images_per_second"], *row["range"]) for row in paces]
        same, seconds = f"{answer['same_top1']} of {answer['images']}", document["made_in"][name]
        rows.append((name, *cells, same, f"{answer['largest_difference']:.4f}", f"{seconds:.1f} s"))
    heads = [f"images/s, batch {batch} (range)" for batch in BATCHES]
    head = ("kind", *heads, "same top-1", "largest difference", "built in")
    console.print_table("ResNet-18, one core", head, rows)
    for name, reason in document["missing"].items():
        print(f"{name}: {reason}")


@torch.no_grad()
def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = console.parser("int8", __doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=16, help="images of each class for calibration, and for testing")
    options = parser.parse_args(arguments)
    origin = Origin("int8", arguments, code=TRAINING)
    torch.set_num_threads(1)  # before anything is compiled: Inductor compiles for this number of threads
    warnings.filterwarnings("ignore", module=r"torch(ao)?\.")
    try:
        run = bench_runs.run("resnet18", Path.cwd())
    except bench_runs.TrainingFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    spec, network = torchscript.load(RunFolder(run).model).spec, resnet.learnt(run)
    calibration, _ = resnet.scenes(spec, options.images, 0)
    images, labels = resnet.scenes(spec, options.images, 1)
    kinds: dict[str, Kind] = {}
    missing, build_seconds = {}, {}
    with tempfile.TemporaryDirectory() as folder, torch._inductor.config.patch(freezing=True):
        for name in ("fp32", *(["bf16"] if gains_from_bf16(torch.device("cpu")) else []), "int8", TORCHAO):
            start = time.perf_counter()
            try:
                if name == TORCHAO:
                    kinds[name] = torchao(network, calibration)
                else:
                    kinds[name] = ours(network, spec, name, calibration, Path(folder))
            except UnavailableError as error:
                missing[name] = str(error)
            build_seconds[name] = round(time.perf_counter() - start, 2)
        with one_core():
            probabilities = {name: answers(kind, images) for name, kind in kinds.items()}
            rows = speeds(kinds, images, options.rounds)
    figures = {
        "network": spec.network,
        "image_size": spec.preprocess.image_size,
        "number_of_rounds": options.rounds,
        "calibration_images": len(calibration),
        "machine": {**machine("cpu"), "cores_used": 1},
        "versions": versions(PACKAGES),
        "missing": missing,
        "made_in": build_seconds,
        "answers": {name: agreement(probabilities["fp32"], actual, labels) for name, actual in probabilities.items()},
        "rows": rows,
    }
    show(figures)
    return origin.publish(figures, RESULT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
