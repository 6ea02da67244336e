"""Which network is worth its time: top-1 of the moths' five folds against requests/s, in each precision.

    python -m benchmarks.accuracy_and_rate [--seconds 3] [--rounds 3]

Top-1 is that of benchmarks/results/real/moths*-folds.json (`python -m benchmarks.real RAW_ROOT moths-folds ...`); bf16
gets that of fp32. Speed does not depend on the weights: `wrk` loads a TorchServe with a network of the same size, which
was trained for a moment on drawn images, through 16 connections. All networks take turns in each round.

Writes benchmarks/results/accuracy_and_rate.json, and a picture beside it; the last line is the same JSON document.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import bench_runs, real
from benchmarks.harness import console, servers
from benchmarks.harness.servers import NotMeasured
from benchmarks.result import Origin
from benchmarks.serving import DRAWN
from benchmarks.traffic import bodies, closed_loop
from handlers.network.precision import gains_from_bf16
from serving.host.resources import Resources
from training.report import rates
from training.report.rates import Point

RESULT, WORK = Path("benchmarks/results/accuracy_and_rate.json"), Path("runs/bench-accuracy")
# title -> run of benchmarks.real, network of training/configs
NETWORKS = {
    "EfficientNet-Lite0, fine-tuned": ("moths-folds", "efficientnet_lite0"),
    "EfficientNet-Lite1, linear head": ("moths-lite1-folds", "efficientnet_lite1"),
    "EfficientNet-Lite2, linear head": ("moths-lite2-folds", "efficientnet_lite2"),
    "ResNet-18, from nothing": ("moths-resnet18-folds", "resnet18"),
    "half ResNet-18-D, from nothing": ("moths-scratch-folds", "resnet18d_half"),
    "own CNN, from nothing": ("moths-cnn-folds", "small_cnn"),
}
CONNECTIONS, WARM_UP = 16, 1.0  # seconds


def accuracy(document: Mapping[str, Any], precision: str) -> dict[str, float] | None:
    """Return top-1 with its interval, in percent; None for int8 that was not measured."""
    top_1 = {name: 100 * value for name, value in document["top_1"].items()}
    if precision != "int8":
        return top_1
    lost = (document.get("int8") or {}).get("top1_lost")
    return {name: value - 100 * lost["value"] for name, value in top_1.items()} if lost else None


def rate(run: Path, precision: str, seconds: float) -> float:
    """Return the requests/s of a server with a run in a precision.

    Raises:
        NotMeasured: it does not start or answer.
        LoadError: it cannot be loaded.
    """
    paths = bodies.draw(bodies.SIZES[0], DRAWN)
    environment = Resources.of_this_machine(1).environment()
    folder, overrides = Path.cwd() / WORK, [f"handler.precision={precision}"]
    with servers.sightline(folder, run, overrides, environment=environment) as running:
        for duration in (WARM_UP, seconds):
            load = closed_loop.run(
                running.url, paths, connections=CONNECTIONS, seconds=duration, headers=running.headers
            )
    if load.refused or load.broken:
        raise NotMeasured(f"{load.refused + load.broken} requests failed")
    return load.requests_per_second


def measure(documents: Mapping[str, Mapping[str, Any]], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return a row for each network and precision that has a top-1."""
    bf16 = ["bf16"] if gains_from_bf16(torch.device("cpu")) else []
    cells = [
        (title, precision)
        for title in documents
        for precision in ("fp32", *bf16, "int8")
        if accuracy(documents[title], precision)
    ]
    rates_of: dict[tuple[str, str], list[float]] = {cell: [] for cell in cells}
    for number in range(rounds):
        for title, precision in cells:
            run = bench_runs.run(NETWORKS[title][1], Path.cwd(), size=documents[title]["image_size"])
            rates_of[title, precision].append(rate(run, precision, seconds))
            print(f"round {number + 1}: {title}, {precision}: {rates_of[title, precision][-1]:.0f}/s", flush=True)
    return [
        {
            "network": title,
            "precision": precision,
            "image_size": documents[title]["image_size"],
            "parameters": documents[title]["parameters"],
            "top_1": accuracy(documents[title], precision),
            "requests_per_second": round(statistics.median(values), 1),
            "range": [round(min(values), 1), round(max(values), 1)],
        }
        for (title, precision), values in rates_of.items()
    ]


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the picture: a colour for each network, a marker for each precision. The same rows, the same bytes."""
    points = [Point(row["network"], row["precision"], row["requests_per_second"], row["top_1"]) for row in rows]
    rates.draw(points, path, f"requests/s, {CONNECTIONS} connections", "top-1 in %, 1,200 images of 20 moths")


def main(arguments: Sequence[str]) -> int:
    """Measure the networks with a top-1, and write the result and its picture."""
    parser = console.parser("accuracy_and_rate", __doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of a load, in whole seconds")
    options = parser.parse_args(arguments)
    origin, documents = Origin("accuracy_and_rate", arguments), {}
    for title, (name, _) in NETWORKS.items():
        if (path := real.RESULTS / f"{name}.json").is_file():
            documents[title] = json.loads(path.read_text())
        else:
            print(f"{title}: not measured: python -m benchmarks.real RAW_ROOT {name}", flush=True)
    try:
        closed_loop.find_wrk()
        rows = measure(documents, options.rounds, options.seconds)
    except (closed_loop.LoadError, bench_runs.TrainingFailed, NotMeasured) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    draw(rows, RESULT.with_suffix(".svg"))
    figures = {"connections": CONNECTIONS, "number_of_rounds": options.rounds, "rows": rows}
    return origin.publish({**figures, "missing": [title for title in NETWORKS if title not in documents]}, RESULT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
