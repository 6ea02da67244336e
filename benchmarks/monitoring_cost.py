"""Measure the processor time that counting costs a request, and that one scrape costs the exporter.

    python -m benchmarks.monitoring_cost                        24 pairs; about 6 minutes
    python -m benchmarks.monitoring_cost --pairs 4 --seconds 0.3

A worker's service answers one JPEG file of 300 x 300, without TorchServe, in batches of one and of eight, one after the
other without a pause. The archive has a bank of training images and a reference for drift. The service takes turns with
itself on one core: it counts (metrics, and statistics and embeddings of a sample of the images), it does not, and again
it does not. In a server a request costs more, so its ratio is smaller. Networks: the one that `make up` trains, at
64 x 64, and ResNet-18 at 224 x 224, with random weights.
The last line is one JSON document.
"""

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prometheus_client import CollectorRegistry, generate_latest

from benchmarks.familiarity import ratio
from benchmarks.harness import console, resnet, small_server
from benchmarks.interleave import Work, one_core, take_turns
from benchmarks.result import Origin
from handlers.network import torchscript
from handlers.observation.counters import Counters
from handlers.observation.observer import Observer
from handlers.observation.slot import VARIABLE, Slot
from handlers.requests.request import Field, RawRequest
from handlers.run_folder import RunFolder
from handlers.service import Service
from handlers.spec import FAMILIARITY, REFERENCE
from monitoring.worker_metrics import WorkerMetrics
from synthetic import places365
from training.networks import Network
from training.transfer import familiarity, reference

RESULT = Path("benchmarks/results/monitoring_cost.json")
CODE = ("handlers", "monitoring/worker_metrics.py")
BATCHES = (1, 8)  # requests
GOAL = 1.02  # times
WORKERS, VERSIONS, CLASSES, SCRAPES = 2, 2, 365, 50


def networks() -> Iterator[tuple[str, int, Network]]:
    """Yield a name, the side of the images, and a network."""
    yield "resnet18d_half", small_server.SIDE, small_server.network(resnet.CLASSES, 0)
    yield "resnet18", resnet.SIDE, resnet.untrained()


def write(folder: Path, side: int, network: Network) -> Path:
    """Write an artifact with a bank and a reference of drawn scenes; return its path."""
    spec = resnet.spec(side=side)
    model = RunFolder(folder).model
    torchscript.save(network, spec, model)
    scenes, labels = resnet.scenes(spec, 20, 0)
    with torch.no_grad():
        embeddings = torch.cat([network.embedding(part) for part in resnet.batches(scenes)])
        logits = torch.cat([network(part) for part in resnet.batches(scenes)])
    values, half = embeddings.numpy().astype(np.float32), len(labels) // 2
    familiarity.bank_of(values[:half], labels[:half].numpy(), values[half:]).write(folder / FAMILIARITY)
    known = reference.build(
        values[:half], values[half:], torch.rand(half, 3).numpy(), logits[half:], labels[half:].numpy()
    )
    known.write(folder / REFERENCE)
    return model


@contextlib.contextmanager
def observations(folder: Path) -> Iterator[None]:
    """Name the folder of the counters in the environment while services load."""
    os.environ[VARIABLE] = str(folder)
    try:
        yield
    finally:
        del os.environ[VARIABLE]


def costs(name: str, weights: Path, precision: str, pairs: int, seconds: float) -> list[dict[str, Any]]:
    """Return processor milliseconds of a request with and without counting, and the ratios of interleaved turns."""
    config = {"handler": {"precision": precision}, "minWorkers": 1, "batchSize": max(BATCHES)}
    with observations(weights.parent / "observations"):
        service = Service(weights, config, version="1.0", name=name)
    observer = service.observer
    assert observer is not None and service.classifier.reference is not None
    image, rows = places365.image(0, 0, 1, 0, 300), []
    for batch in BATCHES:
        observers: dict[str, Observer | None] = {"counting": observer, "silent": None, "again": None}
        works = {key: _requests(service, own, image, batch) for key, own in observers.items()}
        with one_core():
            times = take_turns(works, pairs, seconds, _flushed(observer))
        rows.append(
            {
                "network": name,
                "precision": precision,
                "batch": batch,
                "pairs": pairs,
                "cpu_milliseconds": {key: 1000 * statistics.median(values) / batch for key, values in times.items()},
                "ratio": {key: ratio(times[key], times["silent"]) for key in ("counting", "again")},
            }
        )
    return rows


def _requests(service: Service, observer: Observer | None, image: bytes, batch: int) -> Work:
    requests = [RawRequest({"content-type": "image/jpeg"}, [Field("body", image)])] * batch

    def answer() -> None:
        service.observer, service.classifier.observes = observer, observer is not None
        service.answer(requests)

    return answer


def _flushed(observer: Observer) -> Callable[[], float]:
    """Return a clock of processor time: observations that wait belong to the turn that ends."""

    def clock() -> float:
        observer.flush()
        return time.process_time()

    return clock


def scrape(folder: Path) -> dict[str, Any]:
    """Return the processor time and the size of one answer of the exporter."""
    classes = [f"class {number}" for number in range(CLASSES)]
    for version in map(str, range(VERSIONS)):
        for _ in range(WORKERS):
            Counters(Slot.take(folder, "places", version), "places", version, classes)
    registry = CollectorRegistry()
    registry.register(WorkerMetrics(lambda: folder))
    size = len(generate_latest(registry))
    start = time.process_time()
    for _ in range(SCRAPES):
        generate_latest(registry)
    milliseconds = 1000 * (time.process_time() - start) / SCRAPES
    about = {"workers": WORKERS * VERSIONS, "versions": VERSIONS, "classes": CLASSES}
    return {**about, "cpu_milliseconds": milliseconds, "bytes": size}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    cells = []
    for row in rows:
        ratios = [
            f"{value['value']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"
            for value in (row["ratio"]["counting"], row["ratio"]["again"])
        ]
        times = [f"{row['cpu_milliseconds'][key]:.3f}" for key in ("counting", "silent")]
        cells.append((f"{row['network']}, {row['precision']}, batch of {row['batch']}", *times, *ratios))
    headings = ("", "counting, ms", "silent, ms", "ratio", "silent against itself")
    console.print_table("processor time of a request", headings, cells)


def main() -> int:
    """Measure, print and write the result; 1 where the goal is missed."""
    parser = console.parser("monitoring_cost", __doc__)
    parser.add_argument("--pairs", type=int, default=24, help="turns of each service")
    parser.add_argument("--seconds", type=float, default=1.0, help="processor time of a turn")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    origin = Origin("monitoring_cost", sys.argv[1:], code=CODE)
    torch.set_num_threads(1)  # as in a worker
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, side, network in networks():
            folder = Path(temporary) / name
            folder.mkdir()
            weights = write(folder, side, network)
            for precision in ("fp32", "bf16"):
                rows += costs(name, weights, precision, options.pairs, options.seconds)
        scraping = scrape(Path(temporary) / "scrape")
    show(rows)
    print(f"a scrape: {scraping['cpu_milliseconds']:.1f} ms, {scraping['bytes']:,} bytes")
    worst = max(row["ratio"]["counting"]["value"] for row in rows)
    figures = {"goal": GOAL, "worst_ratio": worst, "rows": rows, "scrape": scraping}
    return origin.publish(figures, options.output, failed=worst > GOAL)


if __name__ == "__main__":
    sys.exit(main())
