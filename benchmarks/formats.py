"""How fast are the artifact's formats in process? ResNet-18, 224 x 224, 12 classes, decoded and normalised batches.

    python -m benchmarks.formats
    python -m benchmarks.formats --rounds 5 --seconds 1

TorchScript as it is served, the package that FORMAT=pt2 makes, and the same package without freezing and with
max-autotune: in float32 and bf16, through the engine that answers requests. All take turns in each round, so that
whatever else the machine does meets all of them.

Writes benchmarks/results/formats.json; the last line is the same JSON document.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.result import Origin
from handlers import artifact, exported
from handlers.atomic import write_json
from handlers.engine import Engine
from handlers.spec import PreprocessSpec, Spec
from training.networks import build

RESULT = Path("benchmarks/results/formats.json")
CPU = torch.device("cpu")
SIZE, CLASSES, BATCHES = 224, 12, (1, 4, 8, 16)
PACKAGES: dict[str, dict[str, object]] = {
    "pt2": {},
    "pt2, not frozen": {"freezing": False},
    "pt2, max-autotune": {"max_autotune": True},
}


def engines(folder: Path) -> tuple[dict[tuple[str, str], Engine], dict[str, dict[str, float]]]:
    """Return an engine for each format and precision, and what each format took: seconds to make, megabytes."""
    torch.manual_seed(0)
    network = build({"kind": "resnet18"}, CLASSES, 3, SIZE).eval()
    classes = tuple(f"class {number}" for number in range(CLASSES))
    spec = Spec(preprocess=PreprocessSpec(image_size=SIZE), classes=classes, network="resnet18")
    found: dict[tuple[str, str], Engine] = {}
    made: dict[str, dict[str, float]] = {}
    for name in ("torchscript", *PACKAGES):
        began = time.perf_counter()
        path = folder / f"{len(made)}.pt"
        if name == "torchscript":
            artifact.save(network, spec, path)
        else:
            path = path.with_suffix(exported.SUFFIX)
            exported.save(network, spec, path, {**exported.OPTIONS, **PACKAGES[name]})
        made[name] = {"seconds": round(time.perf_counter() - began, 1), "mb": round(path.stat().st_size / 1e6, 1)}
        for precision in exported.PRECISIONS:
            found[name, precision] = (
                Engine(artifact.load(path).module, spec.preprocess.shape, CPU, precision)
                if name == "torchscript"
                else exported.load(path, CPU, precision)[1]
            )
    return found, made


def pace(engine: Engine, batch: torch.Tensor, seconds: float) -> float:
    """Return images/s."""
    began, runs = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        engine(batch)
        runs += 1
    return runs * len(batch) / (time.perf_counter() - began)


def measure(found: dict[tuple[str, str], Engine], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return a row for each format, precision and batch size, with images/s of each round."""
    rows: dict[tuple[str, str, int], list[float]] = {}
    for engine in found.values():
        engine.warm_up(max(BATCHES))
    for _ in range(rounds):
        for (name, precision), engine in found.items():
            for count in BATCHES:
                batch = engine.inputs(count).normal_()
                rows.setdefault((name, precision, count), []).append(round(pace(engine, batch, seconds), 1))
    return [
        {
            "format": name,
            "precision": precision,
            "batch": count,
            "images_per_second": round(statistics.median(each), 1),
            "rounds": each,
        }
        for (name, precision, count), each in rows.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each format, precision and batch in a round")
    options = parser.parse_args(arguments)
    origin = Origin("formats", sys.argv[1:] if arguments is None else arguments, code=("handlers",))
    torch.set_num_threads(1)  # as a worker has
    with tempfile.TemporaryDirectory() as folder:
        found, made = engines(Path(folder))
        rows = measure(found, options.rounds, options.seconds)
    document = {
        "benchmark": "formats",
        **origin.document(),
        "network": "resnet18",
        "image_size": SIZE,
        "classes": CLASSES,
        "threads": torch.get_num_threads(),
        "made": made,
        "rows": rows,
    }
    for row in rows:
        print(f"{row['format']:>18} {row['precision']} {row['batch']:>3}  {row['images_per_second']:8.1f} images/s")
    write_json(RESULT, document)
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
