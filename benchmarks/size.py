"""Find the settings with which this machine serves a model best under a latency goal, and archive the model with them.

    python -m benchmarks.size NAME --p99 50ms                     about 6 minutes on 2 cores
    python -m benchmarks.size NAME --p99 50ms --images FOLDER     with these images instead of the run's test images

For each setting a real TorchServe is started. Requests of independent users, an open loop, search the highest rate at
which every answer comes and the 99th percentile of the latency is within the goal. Precision, workers, batch size and
batch delay are varied one after the other, from the settings of the live or the newest archive on; a value is taken if
its rate is at least 5 % higher. At the end two servers take turns: one with the present settings, one with the best. If
the best are at least 5 % better, the next version is archived with them; `make deploy` makes it live. Int8 is tried
only where the run's export offers it. Run nothing else at the same time.

Writes runs/<name>/size.json with all that was measured.
"""

import dataclasses
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import console, servers
from benchmarks.harness.servers import NotMeasured
from benchmarks.result import Origin
from benchmarks.traffic import capacity
from benchmarks.traffic.capacity import Capacity
from handlers.atomic import write_json
from handlers.network.precision import by_speed
from handlers.run_folder import RUNS, RunFolder
from pipeline.steps import next_version
from serving import archive
from serving.errors import ServingError
from serving.host import ports, state
from serving.host.resources import Resources
from serving.store import fine_tuning, model_config, model_store, provenance
from serving.store.live import Live
from training.data.records import DatasetError
from training.predictions import Predictions

WORK = Path("runs/bench-size")
APART = 500  # between the ports of two servers
BODIES = 16  # images that are sent in turn
GAIN = 1.05  # times the rate of the settings before: less is noise
TURNS = 3  # of the present and the found settings at the end
GOAL = re.compile(r"(\d+(?:\.\d+)?)(ms|s)?")

Settings = tuple[str, ...]  # overrides of an archive, as `key=value`
Measure = Callable[[Settings], Capacity]


def milliseconds(text: str) -> float:
    """Return a duration such as "50ms" or "0.2s" in milliseconds; a number without a unit is one.

    Raises:
        ServingError: it is none.
    """
    parts = GOAL.fullmatch(text.strip())
    value = float(parts[1]) * (1000 if parts[2] == "s" else 1) if parts else 0.0
    if not value:
        raise ServingError(f"P99 is {text!r}: give a time such as 50ms or 0.2s")
    return value


def changed(settings: Settings, override: str) -> Settings:
    """Return settings with one of them replaced; a default is left out."""
    key = override.partition("=")[0]
    unchanged = tuple(setting for setting in settings if setting.partition("=")[0] != key)
    return unchanged if model_config.configure([override]) == model_config.configure(()) else (*unchanged, override)


def choices(precisions: Sequence[str], workers: int) -> Iterator[list[str]]:
    """Yield the values of each setting, the setting that changes the rate most first.

    `precisions` are those that the machine gains from, the fastest first: the default takes that one.
    """
    yield ["handler.precision=auto", *(f"handler.precision={precision}" for precision in precisions[1:])]
    yield [f"minWorkers={count}" for count in sorted({1, workers + 1} - {workers})]
    yield [f"batchSize={size}" for size in (1, 4, 8, 16)]
    yield [f"maxBatchDelay={delay}" for delay in (0, 1, 5)]


def search(
    present: Settings, values: Iterator[list[str]], measure: Measure
) -> tuple[Settings, dict[Settings, Capacity]]:
    """Return the best settings, and the capacity of all that were measured; one setting is varied after the other."""
    measured = {present: measure(present)}  # an error ends the search; other settings may not fit the machine
    best = present
    for overrides in values:
        for override in overrides:
            candidate = changed(best, override)
            if candidate not in measured:
                try:
                    measured[candidate] = measure(candidate)
                except NotMeasured as error:
                    print(f"{' '.join(candidate)}: not measured: {error}", file=sys.stderr, flush=True)
                    measured[candidate] = Capacity(0.0, None)
            if measured[candidate].rate > GAIN * measured[best].rate:
                best = candidate
    return best, measured


@dataclasses.dataclass(frozen=True, slots=True)
class Bench:
    """The servers of one search: run, bodies of requests, goal in milliseconds, seconds of a load, offset of ports."""

    run: Path
    bodies: Sequence[bytes]
    p99: float
    seconds: float
    offset: int

    def measure(self, settings: Settings) -> Capacity:
        """Return the capacity of a server with these settings.

        Raises:
            NotMeasured: it does not start.
        """
        with self._server(settings, 0) as running:
            result = capacity.measure(running, self.bodies, self.p99, self.seconds)
        print(f"{' '.join(settings) or 'defaults'}: {result.rate:g} requests/s", file=sys.stderr, flush=True)
        return result

    def compare(self, present: Settings, best: Settings) -> list[tuple[float, float]]:
        """Return the capacities of two servers that take turns."""
        with self._server(present, 0) as first, self._server(best, 1) as second:
            turns = []
            for number in range(TURNS):
                order = (first, second) if number % 2 else (second, first)
                rates = {
                    server.url: capacity.measure(server, self.bodies, self.p99, self.seconds).rate for server in order
                }
                turns.append((rates[first.url], rates[second.url]))
        return turns

    def _server(self, settings: Settings, place: int) -> Any:
        environment = Resources.of_this_machine(1).environment()
        folder, offset = Path.cwd() / WORK / str(place), self.offset + place * APART
        return servers.sightline(folder, self.run, settings, offset=offset, environment=environment)


def images(run: RunFolder, folder: Path | None) -> list[bytes]:
    """Return the bodies of requests: images of the folder, or test images of the run.

    Raises:
        DatasetError: the folder has none, or the run has no evaluation.
    """
    if folder is None:
        return [image for image, _ in zip(Predictions.load(run.predictions).images(), range(BODIES), strict=False)]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not paths:
        raise DatasetError(f"{folder} holds no image: name a folder of JPEG, PNG or WebP files")
    return [path.read_bytes() for path in paths[:BODIES]]


def present_settings(name: str) -> Settings:
    """Return the settings of the live or the newest archive of a model; none without an archive."""
    archives = [candidate for candidate in model_store.archives(model_store.FOLDER) if candidate.name == name]
    live = Live.read(Path.cwd()).models.get(name)
    current = [candidate for candidate in archives if live is not None and candidate.version == live.version]
    for present in current or archives[-1:]:
        return tuple(present.provenance().get("overrides", []))
    return ()


def offers_int8(run: RunFolder) -> bool:
    """Return whether the export of a run offers its int8 form."""
    return (
        bool(((provenance.read_json(run.export) or {}).get("int8") or {}).get("offered")) and run.int8_model.is_file()
    )


def size(name: str, p99: float, folder: Path | None, seconds: float) -> dict[str, Any]:
    """Search, archive the next version if the found settings are better, and return all figures.

    Raises:
        ServingError, DatasetError: there is no such run, or it cannot be served.
    """
    model_store.check_name(name)
    if state.running(Path.cwd()) is not None:
        raise ServingError("a server runs here, which would share the cores with those of the search: make stop first")
    run = fine_tuning.deployed(*fine_tuning.runs(name, RUNS))
    archive.read_spec(run.model)
    bench = Bench(run.path.resolve(), images(run, folder), p99, seconds, ports.offset_of_environment())
    precisions = [*by_speed(torch.device("cpu")), *(["int8"] if offers_int8(run) else [])]
    present = present_settings(name)
    workers = Resources.of_this_machine(1).workers
    best, measured = search(present, choices(precisions, workers), bench.measure)
    ratio, turns, version = 1.0, [], None
    if best != present:
        turns = bench.compare(present, best)
        ratio = statistics.median(second / max(first, 1e-9) for first, second in turns)
    if ratio >= GAIN:
        version = archive.build(name, next_version(name, model_store.FOLDER), run=run.path, overrides=best).version
    rows = [
        {"settings": list(key), **dataclasses.asdict(value)}
        for key, value in sorted(measured.items(), key=lambda item: -item[1].rate)
    ]
    figures = {"model": name, "p99_ms": p99, "present": list(present), "best": list(best), "turns": turns}
    return {**figures, "ratio": round(ratio, 3), "version": version, "rows": rows}


def verdict(figures: dict[str, Any]) -> str:
    """Return the result of a search in one line, with the next command."""
    goal, rate = figures["p99_ms"], figures["rows"][0]["rate"]
    if not rate:
        return f"no setting keeps p99 within {goal:g} ms at any rate: allow more, or take a smaller network"
    if figures["version"] is None:
        return f"the present settings stay: no other serves 5 % more within {goal:g} ms"
    best, archived = " ".join(figures["best"]), f"{figures['model']} {figures['version']}"
    deploy = f"make deploy NAME={figures['model']} VERSION={figures['version']}"
    return f"{archived} has {best}: {figures['ratio']:.2f} times the rate within {goal:g} ms. Make it live: {deploy}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, print the table and the verdict, and write the result."""
    parser = console.parser("size", __doc__)
    parser.add_argument("name", help="of the model")
    parser.add_argument("--p99", required=True, help="99th percentile of the latency that is allowed, such as 50ms")
    parser.add_argument("--images", type=Path, help="folder of images to send")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one load, at least (default 3)")
    options = parser.parse_args(arguments)
    origin = Origin("size", sys.argv[1:] if arguments is None else arguments)
    try:
        figures = size(options.name, milliseconds(options.p99), options.images, options.seconds)
    except (ServingError, DatasetError, NotMeasured, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    cells = [
        (" ".join(row["settings"]) or "defaults", f"{row['rate']:g}", f"{(row['latencies'] or {}).get('p99', '')}")
        for row in figures["rows"]
    ]
    console.print_table(
        f"{options.name}: p99 within {figures['p99_ms']:g} ms", ("settings", "requests/s", "p99 ms"), cells
    )
    document = {"benchmark": origin.benchmark, **origin.document(), **figures}
    write_json(fine_tuning.deployed(*fine_tuning.runs(options.name, RUNS)).path / "size.json", document)
    print(verdict(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
