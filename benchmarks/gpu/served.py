"""Measure TorchServe with a GPU at growing concurrency: our handler, and its `image_classifier`, in one run.

    python -m benchmarks.gpu.served RUN --bodies FOLDER [--bodies FOLDER ...] [--connections 16 64 128] [--seconds 2]

`wrk` sends from this machine. Utilisation and memory of the GPU are those of nvidia-smi. The first number of workers
also gets 100,000 requests, and a deployment under load: device memory before and after. The other numbers of workers
show the gain of more workers, and the memory of each. Measurements with goals precede the others. Each line is one JSON
document of the results so far.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.comparison.in_process import read
from benchmarks.gpu import usage as gpu_usage
from benchmarks.harness import console, servers
from benchmarks.harness.servers import MODEL, NotMeasured, Running
from benchmarks.peers import environment as peers_environment
from benchmarks.peers import stock
from benchmarks.peers.stock import Setting
from benchmarks.traffic import background_load, closed_loop
from handlers import machine
from serving import deploy

WORK = Path("runs/bench-gpu")
OURS = WORK / "ours"
BATCH, DELAY = 64, 2  # images, milliseconds
WORKERS = (8, 4, 1)  # of our server, on one GPU: several, because the Python code of a worker is the bottleneck
MIXED, SWAP_RATE, MAX_SECONDS = 100_000, 200.0, 40.0  # requests; requests/s during a deployment


def ours(root: Path, run: Path, workers: int, batch: int) -> contextlib.AbstractContextManager[Running]:
    """Serve our handler, with a second version in the store."""
    overrides = [f"minWorkers={workers}", f"batchSize={batch}", f"maxBatchDelay={DELAY}", "jobQueueSize=2000"]
    return servers.sightline(root / OURS, run, overrides, versions=("1.0", "2.0"))


def theirs(root: Path, run: Path, setting: Setting) -> contextlib.AbstractContextManager[Running]:
    """Serve TorchServe's image_classifier with the same weights."""
    folder = servers.empty(root / WORK / "stock")
    stock.build(MODEL, setting, run, folder / "model_store")
    # Its handlers need captum.
    python = peers_environment.python(root) if peers_environment.is_current(root) else None
    return servers.torchserve(folder, python=python, environment=setting.environment)


def load(running: Running, folder: Path, connections: int, seconds: float) -> dict[str, Any]:
    """Return the figures of one load, and of the GPU during it."""
    bodies = sorted(folder.glob("*.jpg"))
    with gpu_usage.watched() as usage:
        result = closed_loop.run(running.url, bodies, connections=connections, seconds=seconds, headers=running.headers)
    at = {"body": folder.name, "connections": connections}
    return at | {name: round(value, 3) for name, value in dataclasses.asdict(result).items()} | usage.summary()


def settings() -> dict[str, Setting]:
    """Return the measured settings of the stock handler: the defaults, and settings for many requests.

    It decodes on the CPU, one image after the other: a worker for each core decodes in parallel.
    """
    cores = machine.cores()
    return {
        "a worker for each core": Setting(cores, 1, 16, 5),
        "defaults": stock.DEFAULTS,
        "batches of 32": Setting(min(4, cores), max(1, cores // 4), 32, 5),
    }


def many(running: Running, folders: Sequence[Path], requests: int, connections: int) -> dict[str, Any]:
    """Send `requests` requests of all bodies; return the number of failures, and the memory before and after."""
    bodies = [path for folder in folders for path in sorted(folder.glob("*.jpg"))]
    count = failed = 0
    start = time.monotonic()
    with gpu_usage.watched() as usage:
        while count < requests and time.monotonic() - start < MAX_SECONDS:
            result = closed_loop.run(running.url, bodies, connections=connections, seconds=5, headers=running.headers)
            count, failed = count + result.requests, failed + result.refused + result.broken
            if not result.requests:
                raise NotMeasured("no request is answered")
    return {"requests": count, "failed": failed, **usage.summary()}


def swap(folder: Path, running: Running, bodies: Sequence[bytes], rate: float) -> dict[str, Any]:
    """Deploy the second version under load; return the number of failures, and the memory before and after."""
    with gpu_usage.watched() as usage:
        load = background_load.beside(running.url, bodies, running.headers, rate=rate, connections=64)
        with load as answers:
            deployed = deploy.deploy(MODEL, "2.0", root=folder, keep=False, verify=False, log=lambda _: None)
    failed = sum(answer.status != 200 for answer in answers)
    return {
        "requests": len(answers),
        "failed": failed,
        "seconds": round(sum(deployed.steps.values()), 2),
        **usage.summary(),
    }


def measure(root: Path, options: argparse.Namespace, document: dict[str, Any]) -> None:
    """Add all figures to `document`, those with goals first; a failed stage adds its reason."""

    def mine(workers: int) -> None:
        first = workers == options.workers[0]
        with ours(root, options.run, workers, options.batch) as running:
            for row in _loads(running, options, options.connections if first else options.connections[-1:]):
                document["ours"].append({"workers": workers, **row})
            if first:
                document["many"] = many(running, options.bodies, options.requests, options.connections[-1])
                document["swap"] = swap(root / OURS, running, read(options.bodies[0]), options.rate)

    def stocks(name: str, setting: Setting) -> None:
        with theirs(root, options.run, setting) as running:
            for row in _loads(running, options, options.connections[-2:]):
                document["stock"].append({"setting": name, **row})

    own = [(f"ours, {workers} workers", partial(mine, workers)) for workers in options.workers]
    stock = [(f"image_classifier, {name}", partial(stocks, name, setting)) for name, setting in settings().items()]
    for name, stage in [own[0], *stock[:2], *own[1:], *stock[2:]]:  # the goals are about the first three
        try:
            stage()
        except Exception as error:  # the other rows must be measured
            document["reasons"][name] = str(error) or type(error).__name__
            print(f"{name}: not measured: {error}", file=sys.stderr)
        print(json.dumps(document), flush=True)  # in case the process is killed while it ends


def _loads(running: Running, options: argparse.Namespace, counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    for body in options.bodies:
        load(running, body, counts[-1], 1)  # warm-up
        for connections in counts:
            row = load(running, body, connections, options.seconds)
            print(f"  {row['body']}, {connections}: {row['requests_per_second']:,.0f}/s", file=sys.stderr)
            yield row


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = console.parser("gpu.served", __doc__)
    parser.add_argument("run", type=Path, help="folder of a run, with model.pt")
    parser.add_argument("--bodies", type=Path, action="append", required=True, help="folder of JPEG files of one size")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64, 192])
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS))
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of each load")
    parser.add_argument("--requests", type=int, default=MIXED)
    parser.add_argument("--rate", type=float, default=SWAP_RATE, help="requests/s during the deployment")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    options = parsed(arguments)
    document: dict[str, Any] = {"batch": options.batch, "delay_ms": DELAY, "ours": [], "stock": [], "reasons": {}}
    try:
        measure(Path.cwd(), options, document)
    except KeyboardInterrupt:
        document["reasons"]["the rest"] = "interrupted"
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
