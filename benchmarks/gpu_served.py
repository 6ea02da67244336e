"""TorchServe in front of a GPU, at growing concurrency: our handler, and its own `image_classifier`, in one run.

    python -m benchmarks.gpu_served RUN --bodies FOLDER [--bodies FOLDER ...] [--connections 16 64 128] [--seconds 2]

`wrk` sends from this machine. Utilisation and memory of the GPU are nvidia-smi's. The first number of workers is sent
100,000 requests too, and has a deployment under load: device memory before and after. The others show whether so many
pay, and what each takes of the memory. What the goals are about comes first. Each line is one JSON document of what
there is so far.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import background_load, closed_loop, gpu_usage, servers
from benchmarks.in_process import read
from benchmarks.peers import environment as peers_environment
from benchmarks.peers import stock
from benchmarks.peers.stock import Setting
from benchmarks.servers import NotMeasured, Running
from handlers import machine
from serving import archive, deploy, ports

MODEL, WORK = "bench", Path("runs/bench-gpu")
BATCH, DELAY = 64, 2  # images, milliseconds
WORKERS = (8, 4, 1)  # of ours, on one GPU: what a worker does in Python is what there must be several for
MIXED, SWAP_RATE, LONGEST = 100_000, 200.0, 40.0  # requests; requests/s beside a deployment; seconds


@contextlib.contextmanager
def ours(root: Path, run: Path, workers: int, batch: int) -> Iterator[tuple[Path, Running]]:
    """Serve our handler with so many workers a GPU; give the server's folder too, which holds a second version."""
    folder = servers.empty(root / WORK / "ours")
    overrides = [f"minWorkers={workers}", f"batchSize={batch}", f"maxBatchDelay={DELAY}", "jobQueueSize=2000"]
    for version in ("1.0", "2.0"):
        archive.build(MODEL, version, run=run, store=folder / "model_store", overrides=overrides, rehearse=False)
    with _torchserve(root, folder, servers.own_python()) as running:
        yield folder, running


@contextlib.contextmanager
def theirs(root: Path, run: Path, setting: Setting) -> Iterator[Running]:
    """Serve TorchServe's own image_classifier with the same weights."""
    folder = servers.empty(root / WORK / "stock")
    stock.build(MODEL, setting, run, folder / "model_store")
    # Its handlers need captum, which ours do not.
    python = peers_environment.python(root) if peers_environment.is_current(root) else servers.own_python()
    with _torchserve(root, folder, python, setting.environment) as running:
        yield running


def _torchserve(
    root: Path, folder: Path, python: Path, environment: Mapping[str, str] | None = None
) -> contextlib.AbstractContextManager[Running]:
    config, headers = (root / "config.properties").read_text(), {"Content-Type": "image/jpeg"}
    offset = ports.offset_of_environment()
    return servers.torchserve(
        *(MODEL, folder, config, headers), python=python, root=root, offset=offset, environment=environment
    )


def load(running: Running, folder: Path, connections: int, seconds: float) -> dict[str, Any]:
    """Return what came of one load, and what the GPU did meanwhile."""
    bodies = sorted(folder.glob("*.jpg"))
    with gpu_usage.watched() as usage:
        found = closed_loop.run(running.url, bodies, connections=connections, seconds=seconds, headers=running.headers)
    at = {"body": folder.name, "connections": connections}
    return at | {name: round(value, 3) for name, value in dataclasses.asdict(found).items()} | usage.summary()


def settings() -> dict[str, Setting]:
    """Return the settings of the stock handler that are measured: as it comes, and those for many requests.

    It decodes on the CPU, one image after the other: a worker for each core has them decoded side by side.
    """
    cores = machine.cores()
    return {
        "a worker for each core": Setting(cores, 1, 16, 5),
        "defaults": stock.DEFAULTS,
        "batches of 32": Setting(min(4, cores), max(1, cores // 4), 32, 5),
    }


def many(running: Running, folders: Sequence[Path], requests: int, connections: int) -> dict[str, Any]:
    """Send so many requests of all bodies, and return how many failed and what memory they left."""
    bodies = [path for folder in folders for path in sorted(folder.glob("*.jpg"))]
    sent = failed = 0
    began = time.monotonic()
    with gpu_usage.watched() as usage:
        while sent < requests and time.monotonic() - began < LONGEST:
            found = closed_loop.run(running.url, bodies, connections=connections, seconds=5, headers=running.headers)
            sent, failed = sent + found.requests, failed + found.refused + found.broken
            if not found.requests:
                raise NotMeasured("no request is answered")
    return {"requests": sent, "failed": failed, **usage.summary()}


def swap(folder: Path, running: Running, bodies: Sequence[bytes], rate: float) -> dict[str, Any]:
    """Deploy the second version under load, and return how many requests failed and what memory that left."""
    with gpu_usage.watched() as usage:
        load = background_load.beside(running.url, bodies, running.headers, rate=rate, connections=64)
        with load as answers:
            done = deploy.deploy(MODEL, "2.0", root=folder, keep=False, verify=False, say=lambda _: None)
    failed = sum(answer.status != 200 for answer in answers)
    return {
        "requests": len(answers),
        "failed": failed,
        "seconds": round(sum(done.steps.values()), 2),
        **usage.summary(),
    }


def measure(root: Path, options: argparse.Namespace, found: dict[str, Any]) -> None:
    """Put all of it into `found` as it comes, what the goals are about first; what is not measured has its reason."""

    def mine(workers: int) -> None:
        first = workers == options.workers[0]
        with ours(root, options.run, workers, options.batch) as (folder, running):
            for row in _loads(running, options, options.connections if first else options.connections[-1:]):
                found["ours"].append({"workers": workers, **row})
            if first:
                found["many"] = many(running, options.bodies, options.requests, options.connections[-1])
                found["swap"] = swap(folder, running, read(options.bodies[0]), options.rate)

    def stocks(name: str, setting: Setting) -> None:
        with theirs(root, options.run, setting) as running:
            for row in _loads(running, options, options.connections[-2:]):
                found["stock"].append({"setting": name, **row})

    own = [(f"ours, {workers} workers", partial(mine, workers)) for workers in options.workers]
    stock = [(f"image_classifier, {name}", partial(stocks, name, each)) for name, each in settings().items()]
    for name, stage in [own[0], *stock[:2], *own[1:], *stock[2:]]:  # the goals are about the first three
        try:
            stage()
        except Exception as error:  # whatever it is: the other rows are not to be lost
            found["reasons"][name] = str(error) or type(error).__name__
            print(f"{name}: not measured: {error}", file=sys.stderr)
        print(json.dumps(found), flush=True)  # what is killed while it ends has told this


def _loads(running: Running, options: argparse.Namespace, counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    for body in options.bodies:
        load(running, body, counts[-1], 1)  # what is done at first use
        for connections in counts:
            row = load(running, body, connections, options.seconds)
            print(f"  {row['body']}, {connections}: {row['requests_per_second']:,.0f}/s", file=sys.stderr)
            yield row


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder, with model.pt")
    parser.add_argument("--bodies", type=Path, action="append", required=True, help="of JPEG files of one size")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64, 192])
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS))
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load")
    parser.add_argument("--requests", type=int, default=MIXED)
    parser.add_argument("--rate", type=float, default=SWAP_RATE, help="requests/s beside the deployment")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    options = parsed(arguments)
    found: dict[str, Any] = {"batch": options.batch, "delay_ms": DELAY, "ours": [], "stock": [], "reasons": {}}
    try:
        measure(Path.cwd(), options, found)
    except KeyboardInterrupt:
        found["reasons"]["the rest"] = "interrupted"
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
