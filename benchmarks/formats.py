"""How fast are the artifact's formats in process? ResNet-18, 224 x 224, 12 classes, decoded and normalised batches.

    python -m benchmarks.formats
    python -m benchmarks.formats --rounds 5 --seconds 1

TorchScript as it is served, the package of FORMAT=pt2, and the same package without freezing and with max-autotune: in
float32 and bf16, through the engine that answers requests. All take turns in each round, so that other load of the
machine affects all of them.

Writes benchmarks/results/formats.json; the last line is the same JSON document.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import console
from benchmarks.interleave import Work, take_turns
from benchmarks.result import Origin
from handlers.network import aot, torchscript
from handlers.network.engine import Engine, optimized
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
    """Return an engine for each format and precision, and for each format the seconds to build it and its megabytes."""
    torch.manual_seed(0)
    network = build({"kind": "resnet18"}, CLASSES, 3, SIZE).eval()
    classes = tuple(f"class {number}" for number in range(CLASSES))
    spec = Spec(preprocess=PreprocessSpec(image_size=SIZE), classes=classes, network="resnet18")
    engines: dict[tuple[str, str], Engine] = {}
    costs: dict[str, dict[str, float]] = {}
    for name in ("torchscript", *PACKAGES):
        start = time.perf_counter()
        path = folder / f"{len(costs)}.pt"
        if name == "torchscript":
            torchscript.save(network, spec, path)
        else:
            path = path.with_suffix(aot.SUFFIX)
            aot.save(network, spec, path, {**aot.OPTIONS, **PACKAGES[name]})
        costs[name] = {"seconds": round(time.perf_counter() - start, 1), "mb": round(path.stat().st_size / 1e6, 1)}
        for precision in aot.PRECISIONS:
            engines[name, precision] = (
                Engine(optimized(torchscript.load(path).module, CPU, precision), spec.preprocess.shape, CPU, precision)
                if name == "torchscript"
                else aot.load(path, CPU, precision)[1]
            )
    return engines, costs


def measure(engines: dict[tuple[str, str], Engine], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return a row for each format, precision and batch size, with images/s of each round."""
    works: dict[tuple[str, str, int], Work] = {}
    for (name, precision), engine in engines.items():
        engine.warm_up(max(BATCHES))
        for count in BATCHES:
            works[name, precision, count] = partial(engine, engine.buffer(count).normal_())
    rows = []
    for (name, precision, count), times in take_turns(works, rounds, seconds).items():
        paces = [round(count / time, 1) for time in times]
        about = {"format": name, "precision": precision, "batch": count}
        rows.append({**about, "images_per_second": round(statistics.median(paces), 1), "rounds": paces})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the rows, and write the result."""
    parser = console.parser("formats", __doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="time of each format, precision and batch in a round"
    )
    options = parser.parse_args(arguments)
    origin = Origin("formats", sys.argv[1:] if arguments is None else arguments, code=("handlers",))
    torch.set_num_threads(1)  # as in a worker
    with tempfile.TemporaryDirectory() as folder:
        loaded, costs = engines(Path(folder))
        rows = measure(loaded, options.rounds, options.seconds)
    for row in rows:
        print(f"{row['format']:>18} {row['precision']} {row['batch']:>3}  {row['images_per_second']:8.1f} images/s")
    about = {"network": "resnet18", "image_size": SIZE, "classes": CLASSES, "threads": torch.get_num_threads()}
    return origin.publish({**about, "made": costs, "rows": rows}, RESULT)


if __name__ == "__main__":
    sys.exit(main())
