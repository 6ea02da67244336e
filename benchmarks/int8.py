"""What does int8 gain, and what does it cost? ResNet-18, 224 x 224, 12 classes, on one core of a CPU.

    uv pip install torchao              the second maker of int8; it is left out, and said so, where it is not there
    python -m benchmarks.int8 [--rounds 9] [--images 16]

Four kinds of one network take turns, in batches of 1, 8 and 16:

    fp32, bf16      `handlers.engine.Engine`: TorchScript, frozen, bf16 and fp32 fused by oneDNN
    int8            the same engine with what `training.quantization` makes (torch.ao's FX form, which torch deprecates)
    int8, torchao   torchao's PT2E form for X86InductorQuantizer, behind torch.compile with frozen weights

The network is the one that `benchmarks.serving` serves, trained once. What answers move by is measured on drawn scenes
that it neither learnt from nor was calibrated with. Prints a table and, as its last line, one JSON document; writes
benchmarks/results/int8.json.
"""

import argparse
import importlib
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks import resnet, trained
from benchmarks.result import TRAINING, Origin
from benchmarks.rounds import Work, one_core, take_turns, versions
from handlers import artifact
from handlers.atomic import write_json
from handlers.engine import Engine
from handlers.precision import gains_from_bf16
from handlers.spec import Spec
from training.quantization import QuantizationError, quantize
from training.train import machine

RESULT = Path("benchmarks/results/int8.json")
BATCHES, TURN = (1, 8, 16), 0.2  # images, seconds
PACKAGES = ("torch", "torchao")
TORCHAO = "int8, torchao"

# Normalised images (B, C, S, S) to what the network is given, and that to logits (B, K).
Step = Callable[[torch.Tensor], torch.Tensor]
Kind = tuple[Step, Step]


class NotThereError(Exception):
    """A kind of int8 cannot be made here; the message says why and what to do."""


def ours(network: nn.Module, spec: Spec, precision: str, calibration: torch.Tensor, folder: Path) -> Kind:
    """Return the engine that serves, in one precision, warmed up.

    Raises:
        NotThereError: this build of torch has no int8 layers.
    """
    path = folder / "model.pt"
    if precision == "int8":
        try:
            artifact.save_quantized(quantize(network, resnet.batches(calibration)), spec, path)
        except QuantizationError as error:
            raise NotThereError(str(error)) from error
        path = artifact.quantized(path)
    else:
        artifact.save(network, spec, path)
    engine = Engine(artifact.load(path).module, spec.preprocess.shape, torch.device("cpu"), precision)
    engine.warm_up(max(BATCHES))

    def inputs(images: torch.Tensor) -> torch.Tensor:
        room = engine.inputs(len(images))
        room[: len(images)] = images
        return room

    return inputs, engine


def torchao(network: nn.Module, calibration: torch.Tensor) -> Kind:
    """Return torchao's int8 form, compiled for each of `BATCHES`.

    Raises:
        NotThereError: torchao is not installed, or does not fit this torch.
    """
    try:
        pt2e: Any = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
        x86: Any = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    except ModuleNotFoundError as error:
        raise NotThereError(f"not installed ({error.name}): uv pip install torchao") from error
    try:
        example = calibration[:2].contiguous(memory_format=torch.channels_last)
        batch: Any = torch.export.Dim("batch", min=1, max=1024)
        # Strict: what plain tracing notes down of a module's sources is not what the quantizer looks for.
        exported: Any = torch.export.export(network, (example,), dynamic_shapes=({0: batch},), strict=True)
        quantizer: Any = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = pt2e.prepare_pt2e(exported.module(), quantizer)
        for images in resnet.batches(calibration):
            prepared(images)
        compiled: Any = torch.compile(pt2e.convert_pt2e(prepared), dynamic=False)
        for size in BATCHES:
            compiled(example[:1].repeat(size, 1, 1, 1).contiguous(memory_format=torch.channels_last))
    except Exception as error:  # a torchao for another torch, no compiler of C++: each fails in its own way
        reason = str(error).strip().partition("\n")[0][:200]
        raise NotThereError(f"{type(error).__name__}: {reason}") from error
    return lambda images: images.contiguous(memory_format=torch.channels_last), compiled


def answers(kind: Kind, images: torch.Tensor) -> torch.Tensor:
    """Return the probabilities (N, K), in batches of the largest of `BATCHES`; the last one is filled up."""
    inputs, ask = kind
    largest, found = max(BATCHES), []
    for part in resnet.batches(images, largest):
        whole = torch.cat([part, part[:1].expand(largest - len(part), -1, -1, -1)])
        found.append(ask(inputs(whole))[: len(part)].float())
    return torch.cat(found).softmax(dim=1)


def agreement(expected: torch.Tensor, found: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Return how often the best label is that of fp32, by how much a probability moves, and how often it is right."""
    return {
        "images": len(found),
        "same_top1": int((found.argmax(1) == expected.argmax(1)).sum()),
        "top1": resnet.accuracy(found, labels),
        "largest_difference": float((found - expected).abs().max()),
        "mean_difference": float((found - expected).abs().mean()),
    }


def speeds(kinds: dict[str, Kind], images: torch.Tensor, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each kind and batch size."""
    rows = []
    for batch in BATCHES:
        given = {name: inputs(images[:batch]) for name, (inputs, _) in kinds.items()}
        works: dict[str, Work] = {
            name: lambda ask=ask, filled=given[name]: ask(filled)  # type: ignore[misc]
            for name, (_, ask) in kinds.items()
        }
        for name, seconds in take_turns(works, rounds, TURN).items():
            paces = [round(batch / each, 1) for each in seconds]
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
    heads = [f"images/s, batch {batch} (range)" for batch in BATCHES]
    table = Table("kind", *heads, "same top-1", "largest difference", "made in", title="ResNet-18, one core")
    for name, each in document["answers"].items():
        paces = [row for row in document["rows"] if row["kind"] == name]
        cells = ["{:.0f} ({:.0f} to {:.0f})".format(row["images_per_second"], *row["range"]) for row in paces]
        same = f"{each['same_top1']} of {each['images']}"
        table.add_row(name, *cells, same, f"{each['largest_difference']:.4f}", f"{document['made_in'][name]:.1f} s")
    console = Console(width=140, markup=False, emoji=False)
    console.print(table)
    for name, why in document["missing"].items():
        console.print(f"{name}: {why}", highlight=False, soft_wrap=True)


@torch.no_grad()
def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=16, help="of each class, to calibrate with and to judge by, each")
    options = parser.parse_args(arguments)
    origin = Origin("int8", arguments, code=TRAINING)
    torch.set_num_threads(1)  # before anything is compiled: what Inductor makes is for so many threads
    warnings.filterwarnings("ignore", module=r"torch(ao)?\.")
    try:
        run = trained.run("resnet18", Path.cwd())
    except trained.TrainingFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    spec, network = artifact.load(run / "model.pt").spec, resnet.learnt(run)
    calibration, _ = resnet.scenes(spec, options.images, 0)
    judged, right = resnet.scenes(spec, options.images, 1)
    kinds: dict[str, Kind] = {}
    missing, made_in = {}, {}
    with tempfile.TemporaryDirectory() as folder, torch._inductor.config.patch(freezing=True):
        for name in ("fp32", *(["bf16"] if gains_from_bf16(torch.device("cpu")) else []), "int8", TORCHAO):
            began = time.perf_counter()
            try:
                made = torchao(network, calibration) if name == TORCHAO else None
                kinds[name] = made or ours(network, spec, name, calibration, Path(folder))
            except NotThereError as error:
                missing[name] = str(error)
            made_in[name] = round(time.perf_counter() - began, 2)
        with one_core():
            probabilities = {name: answers(kind, judged) for name, kind in kinds.items()}
            rows = speeds(kinds, judged, options.rounds)
    document = {
        "benchmark": "int8",
        **origin.document(),
        "network": spec.network,
        "image_size": spec.preprocess.image_size,
        "number_of_rounds": options.rounds,
        "calibration_images": len(calibration),
        "machine": {**machine("cpu"), "cores_used": 1},
        "versions": versions(PACKAGES),
        "missing": missing,
        "made_in": made_in,
        "answers": {name: agreement(probabilities["fp32"], each, right) for name, each in probabilities.items()},
        "rows": rows,
    }
    show(document)
    write_json(RESULT, document)
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
