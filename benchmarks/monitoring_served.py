"""Measure the processor time that monitoring costs a request to a real server: front end, workers and exporter.

    python -m benchmarks.monitoring_served                              20 pairs of each row; about 40 minutes
    python -m benchmarks.monitoring_served --pairs 3 --seconds 3        a rehearsal

One TorchServe serves three copies of a network by REST, one worker each: with metrics, drift and a prediction log of a
tenth of the requests; without all of them; and again without. They take turns, with the load of `wrk` on one connection
or on eight. The turn of the first one ends with a scrape, as Prometheus does every 15 seconds by default, at which the
exporter tests both windows for drift: about twice as often as beside a steady load. Processor times are those of the
system (/proc), of all processes of the server and of the exporter; the load generator is not in them. Networks: the one
that `make up` trains, at 64 x 64, and ResNet-18 at 224 x 224, with random weights, in the precision that the machine
gains from. The last line is one JSON document.
"""

import os
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.crashes import until
from benchmarks.familiarity import ratio
from benchmarks.harness import console, small_server
from benchmarks.monitoring_cost import GOAL, networks, write
from benchmarks.monitoring_counts import exporters, scrape, scrapes
from benchmarks.result import Origin
from benchmarks.traffic import closed_loop
from handlers.observation.slot import VARIABLE
from handlers.run_folder import RUNS, RunFolder
from serving import archive
from serving.lifecycle import exporter, launch
from serving.store import package
from synthetic import places365
from training.networks import Network

RESULT, WORK = Path("benchmarks/results/monitoring_served.json"), Path("runs/bench-monitoring-served")
CODE = ("handlers", "monitoring", "serving")
MONITORED, SILENT, AGAIN = MODELS = ("monitored", "silent", "again")
BATCH, CONNECTIONS, LOG = 8, (1, 8), 0.1  # requests; of the load; share of the requests
LARGE_CONNECTIONS = (8,)  # of ResNet-18
FLUSHED = 0.5  # seconds, after which a worker has counted the images of its last batch
WITHOUT = f"\nimport os\nos.environ.pop({VARIABLE!r}, None)\n"  # for the handler of a model without monitoring


def prepare(root: Path, side: int, network: Network) -> list[Path]:
    """Write the archives of the three models into `root`; return the files of the images to send."""
    small_server.prepare(root, ())
    run = RunFolder(root / RUNS / "bench")
    run.path.mkdir(parents=True)
    write(run.path, side, network)
    for model in MODELS:
        settings = [f"batchSize={BATCH}", f"handler.log={LOG if model == MONITORED else 0}"]
        store = root / "model_store"
        built = archive.build(model, "1.0", run=run.path, store=store, overrides=settings, rehearse=False)
        if model != MONITORED:
            small_server.spoil(built.path, WITHOUT, package.HANDLER_FILE)
    images = [root / f"{number}.jpg" for number in range(small_server.IMAGES)]
    for number, path in enumerate(images):
        path.write_bytes(places365.image(0, number, 1, 0, 300))
    return images


class Turns:
    """Turns of the three models of one server; each has a load of `seconds` on some connections.

    Args:
        processes: whose time counts.
    """

    def __init__(
        self, root: Path, address: str, headers: dict[str, str], images: Sequence[Path],
        processes: Callable[[], list[psutil.Process]], *, seconds: float,
    ) -> None:  # fmt: skip
        self._root, self._address, self._headers, self._images = root, address, headers, images
        self._processes, self._seconds = processes, seconds

    def cost(self, model: str, connections: int) -> float:
        """Return the processor milliseconds of one request.

        Raises:
            LoadError: a request failed.
        """
        before = self._spent()
        load = closed_loop.run(
            f"{self._address}/{model}", self._images, connections=connections, seconds=self._seconds,
            headers=self._headers,
        )  # fmt: skip
        if load.refused or load.broken:
            raise closed_loop.LoadError(f"{model}: {load.refused} requests were refused, {load.broken} broken")
        threading.Event().wait(FLUSHED)
        if model == MONITORED:
            scrape(self._root)
        return 1000 * (self._spent() - before) / load.requests

    def _spent(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._processes())

    def rows(self, connections: int, pairs: int) -> dict[str, Any]:
        """Return the costs of all models, and their ratios to the silent one."""
        costs: dict[str, list[float]] = {model: [] for model in MODELS}
        for model in MODELS:
            self.cost(model, connections)  # warm-up
        for number in range(pairs):
            first = number % len(MODELS)
            for model in MODELS[first:] + MODELS[:first]:
                costs[model].append(self.cost(model, connections))
        return {
            "connections": connections,
            "pairs": pairs,
            "cpu_milliseconds": {model: statistics.median(values) for model, values in costs.items()},
            "ratio": {model: ratio(costs[model], costs[SILENT]) for model in (MONITORED, AGAIN)},
        }


def measured(
    root: Path, side: int, network: Network, loads: Sequence[int], pairs: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Yield a row for each number of connections to one server."""
    images = prepare(root, side, network)
    with small_server.serving(root, [f"{model}=1.0" for model in MODELS]) as state, exporter.beside(root):
        until(lambda: scrapes(root))
        front_end = state.process()
        assert front_end is not None
        folder = launch.observations(state.temporary)
        assert [path.name for path in folder.iterdir()] == [MONITORED]
        address, headers = small_server.address(state)
        processes = [front_end, *front_end.children(recursive=True), *exporters()]
        turns = Turns(root, address.rpartition("/")[0], headers, images, lambda: processes, seconds=seconds)
        for connections in loads:
            yield turns.rows(connections, pairs)


def main() -> int:
    """Measure, print and write the result; 1 where the goal is missed."""
    parser = console.parser("monitoring_served", __doc__)
    parser.add_argument("--pairs", type=int, default=20, help="turns of each model")
    parser.add_argument("--seconds", type=float, default=12.0, help="of a turn, whole ones")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    closed_loop.find_wrk()
    origin = Origin("monitoring_served", sys.argv[1:], code=CODE)
    os.environ["PYTHONPATH"] = str(small_server.ROOT)  # of the exporter
    rows = []
    for name, side, network in networks():
        loads = CONNECTIONS if side == small_server.SIDE else LARGE_CONNECTIONS
        of_network = measured(Path.cwd() / WORK, side, network, loads, options.pairs, options.seconds)
        for row in of_network:
            print(f"{name}: {row}", file=sys.stderr, flush=True)
            rows.append({"network": name, **row})
    show(rows)
    worst = max(row["ratio"][MONITORED]["value"] for row in rows)
    figures = {"goal": GOAL, "seconds": options.seconds, "log": LOG, "worst_ratio": worst, "rows": rows}
    return origin.publish(figures, options.output, failed=worst > GOAL)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    cells = []
    for row in rows:
        ratios = [f"{value['value']:.4f} [{value['low']:.4f}, {value['high']:.4f}]" for value in row["ratio"].values()]
        times = [f"{row['cpu_milliseconds'][model]:.3f}" for model in (MONITORED, SILENT)]
        cells.append((f"{row['network']}, connections: {row['connections']}", *times, *ratios))
    headings = ("", "monitored, ms", "silent, ms", "ratio", "silent against itself")
    console.print_table("processor time of a request to a server", headings, cells)


if __name__ == "__main__":
    sys.exit(main())
