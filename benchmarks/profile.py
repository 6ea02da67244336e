"""Measure where a request's time goes, from a client's first byte to its answer, stage by stage, in a real TorchServe.

    python -m benchmarks.profile [--connections 1 64] [--size "200 x 200"] [--seconds 10] [--precision auto]

A ResNet-18 with 12 classes is archived with `benchmarks/harness/profiled_handler.py` as its handler, which records
when each batch arrived at the worker, passed through each stage, and was answered. A request waits for its whole
batch, so each stage counts in full for each request of the batch. The queue is the front end's own metric (QueueTime
on the metrics address). Client and server share the machine: the stages of the front end include the work of the
client.

All figures are means over the same requests, so that the stages add up to the request. Prints a table and, as its last
line, one JSON document; writes benchmarks/results/profile.json and profile.png.
"""

import json
import os
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from matplotlib.figure import Figure

from benchmarks.decoders import SIZES, pictures
from benchmarks.harness import console, profiled_handler, resnet, small_server, stages
from benchmarks.harness.stages import Sent
from benchmarks.interleave import versions
from benchmarks.result import Origin
from benchmarks.traffic import open_loop
from handlers.network import torchscript
from serving import archive, server
from serving.host import ports
from serving.host.state import ServerState
from serving.lifecycle import launch
from serving.store import package
from serving.store.model_store import Archive
from training.pictures import save

RESULTS = Path("benchmarks/results")
PACKAGES = ("torch", "kornia", "simplejpeg", "numpy", "torchserve")
MODEL, WARM_UP = "profiled", 3.0  # seconds
MANIFEST = "MAR-INF/MANIFEST.json"
QUEUE = re.compile(r'^ts_queue_latency_microseconds\{[^}]*model_name="(?P<model>[^"]+)"[^}]*\}\s+(?P<value>\S+)', re.M)


def profiled(mar: Archive) -> None:
    """Replace the handler of an archive by the one with clocks."""
    source = Path(profiled_handler.__file__)

    def change(members: dict[str, bytes]) -> None:
        manifest = json.loads(members[MANIFEST])
        manifest["model"]["handler"] = source.name
        members |= {MANIFEST: json.dumps(manifest).encode(), source.name: source.read_bytes()}

    small_server.edit(mar.path, change)


def queued(state: ServerState) -> float:
    """Return the seconds that all requests so far have waited in the front end's queue."""
    _, headers = small_server.address(state)
    answer = httpx.get(f"{state.metrics}/metrics", headers=headers, trust_env=False)
    return sum(float(match["value"]) for match in QUEUE.finditer(answer.text) if match["model"] == MODEL) / 1e6


def measure(root: Path, size: str, states: Sequence[int], seconds: float, precision: str) -> list[dict[str, Any]]:
    """Serve the network from `root` and return one row for each number of connections."""
    spec = resnet.spec()
    (root / "runs" / MODEL).mkdir(parents=True)
    torchscript.save(resnet.untrained(), spec, root / "runs" / MODEL / "model.pt")
    overrides = [f"handler.precision={precision}"]
    mar = archive.build(
        MODEL, "1.0", runs=root / "runs", store=root / "model_store", overrides=overrides, rehearse=False
    )
    profiled(mar)
    shutil.copy(package.HANDLERS.parent / launch.CONFIG, root)
    (body, *_) = pictures(size, "JPEG")
    os.environ[profiled_handler.FOLDER_VARIABLE] = str(root)
    measured: list[tuple[int, list[Sent], float]] = []
    try:
        state = server.start(root=root, offset=ports.offset_of_environment()).state
        url, headers = small_server.address(state, MODEL)

        def load(connections: int, seconds: float, tag: str, first: int = 0) -> list[Sent]:
            answers = open_loop.numbered(
                url, body, headers, connections=connections, seconds=seconds, tag=tag, first=first
            )
            if refused := [answer for answer in answers if answer.status != 200]:
                answer = refused[0]
                raise stages.ProfileError(f"a request was answered with {answer.status}: {answer.body[:200]!r}")
            return [Sent(answer.number, answer.sent, answer.received) for answer in answers]

        for number in states:
            first = sum(len(requests) for _, requests, _ in measured)
            warm = load(number, WARM_UP, "warm-up")
            before = queued(state)
            requests = load(number, seconds, profiled_handler.HEADER, first)
            measured.append((number, requests, queued(state) - before))
            print(f"{connections(number)}: {len(warm)} + {len(requests)} requests", file=sys.stderr)
    finally:
        server.stop(root=root)
        del os.environ[profiled_handler.FOLDER_VARIABLE]
    # A worker writes its last batch when it ends.
    batches = [json.loads(line) for file in root.glob("*.jsonl") for line in file.read_text().splitlines()]
    return [row(number, requests, batches, waited, seconds) for number, requests, waited in measured]


def row(
    number: int, requests: Sequence[Sent], batches: Sequence[dict[str, Any]], waited: float, seconds: float
) -> dict[str, Any]:
    """Return the figures of one number of connections."""
    means = stages.means(requests, batches, waited)
    times = sorted(1000 * request.seconds for request in requests)
    numbers = {request.number for request in requests}
    sizes = [len(batch["ids"]) for batch in batches if batch["ids"][0] and int(batch["ids"][0]) in numbers]
    return {
        "connections": number,
        "requests": len(requests),
        "requests_per_second": round(len(requests) / seconds, 1),
        "images_per_batch": round(statistics.fmean(sizes), 2),
        "milliseconds": statistics.fmean(times),
        "median": round(statistics.median(times), 3),
        "p99": round(times[int(0.99 * (len(times) - 1))], 3),
        "stages": {name: 1000 * seconds for name, seconds in means.items()},
    }


def connections(number: int) -> str:
    """Return "1 connection" and the like."""
    return f"{number} connection{'s' if number > 1 else ''}"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw one bar for each number of connections, each with its scale of milliseconds."""
    figure = Figure(figsize=(10, 1.5 * len(rows) + 1.2), layout="constrained")
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, row in zip(panels, rows, strict=True):
        start = 0.0
        for name, colour in stages.STAGES.items():
            width = max(0.0, row["stages"][name])
            axes.barh(0, width, left=start, color=colour, edgecolor="white", linewidth=0.6, label=name)
            if width > 0.05 * row["milliseconds"]:
                axes.text(start + width / 2, 0, f"{width:.2f}", ha="center", va="center", fontsize=8)
            start += width
        axes.set_yticks([0], [connections(row["connections"])])
        axes.set_title(f"{row['milliseconds']:.1f} ms, {row['requests_per_second']:.0f} requests/s", fontsize=9)
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[-1].set_xlabel("milliseconds of a request, mean")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    save(figure, path)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    cells = [(name, *(f"{row['stages'][name]:.3f}" for row in rows)) for name in stages.STAGES]
    cells.append(("the request", *(f"{row['milliseconds']:.3f}" for row in rows)))
    cells.append(("requests/s", *(f"{row['requests_per_second']:.0f}" for row in rows)))
    cells.append(("images a batch", *(f"{row['images_per_batch']:.1f}" for row in rows)))
    head = ("stage", *(f"{connections(row['connections'])}, ms" for row in rows))
    console.print_table("a request's time, mean", head, cells)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = console.parser("profile", __doc__)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--size", choices=SIZES, default="200 x 200")
    parser.add_argument("--seconds", type=float, default=10.0, help="time of each number of connections")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args(arguments)
    origin = Origin("profile", arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(Path(folder), options.size, options.connections, options.seconds, options.precision)
    except (stages.ProfileError, server.ServerError, ports.PortError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(rows)
    draw(rows, RESULTS / "profile.png")
    about = {name: getattr(options, name) for name in ("size", "seconds", "precision")}
    return origin.publish({**about, "versions": versions(PACKAGES), "rows": rows}, RESULTS / "profile.json")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
