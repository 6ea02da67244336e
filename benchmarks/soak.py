"""Send requests for long, and change versions often: does memory or the number of files grow?

    python -m benchmarks.soak                                        200,000 requests, 200 registrations; 35 minutes
    python -m benchmarks.soak --requests 20000 --leaking 0 --registrations 0    the result keeps the other sections

Requests are JPEG and PNG from 100 x 100 to 1200 x 1200 over 16 connections. Memory is the resident memory of the front
end and all its workers, once a second; in the second half of the time its maximum may be 50 MB above its mean. A
control with a handler that keeps 10 KB of each request must exceed that. Versions are registered and removed under a
load of 20 requests/s. The last line is one JSON document.
"""

import contextlib
import io
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from rich.console import Console

from benchmarks.harness import console, small_server
from benchmarks.harness.small_server import MODEL
from benchmarks.result import Sections
from benchmarks.traffic import background_load
from benchmarks.traffic.background_load import Load
from serving.client import Client
from serving.host.state import ServerState
from serving.lifecycle import drain
from serving.lifecycle.readiness import wait_ready
from serving.store.model_store import path_of
from synthetic import places365

RESULT, WORK = Path("benchmarks/results/soak.json"), Path("runs/bench-soak")
CONNECTIONS, MAX_SECONDS, RATE = 16, 3600.0, 20.0  # requests/s beside registrations
SIDES = (100, 200, 640, 1200)  # pixels; the largest only as JPEG
GOALS = {"above_mean_mb": 50.0, "growth_mb": 50.0, "folder_growth": 0}
LEAK = """
_leak = []
_handle = ImageHandler.handle
def _leaking(self, data, context):
    _leak.extend(bytearray(10_000) for _ in data)
    return _handle(self, data, context)
ImageHandler.handle = _leaking
"""


def resident_mb(state: ServerState) -> float:
    """Return the resident memory of the front end and of all processes that it started."""
    front_end = state.process()
    total = 0
    for process in [front_end, *front_end.children(recursive=True)] if front_end is not None else []:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total / 1e6


def mixed() -> list[bytes]:
    """Return drawn images of all sizes, as JPEG and PNG."""
    images = [places365.image(0, number, 1, 0, side) for number, side in enumerate(SIDES)]
    for image in [Image.open(io.BytesIO(data)) for data in images[:3]]:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        images.append(buffer.getvalue())
    return images


def requests(root: Path, count: int, progress: Console, *, leaking: bool = False) -> dict[str, Any]:
    """Send `count` requests, for an hour at most, and sample the memory."""
    small_server.prepare(root, ["1.0"])
    if leaking:
        small_server.spoil(path_of(MODEL, "1.0", root / "model_store"), LEAK)
    samples = []
    with small_server.serving(root, [MODEL]) as state, progress.status("sending ...") as status:
        start = time.monotonic()
        url, headers = small_server.address(state)
        load = Load(url, mixed(), headers, rate=0.0, connections=CONNECTIONS, timeout=60.0, count=count)
        while not load.ended and time.monotonic() - start < MAX_SECONDS:
            samples.append(resident_mb(state))
            status.update(f"{time.monotonic() - start:.0f} s, {samples[-1]:.0f} MB")
            time.sleep(1)
        seconds = time.monotonic() - start
        answers = load.stop()
    half = np.array(samples[len(samples) // 2 :])
    return {
        "requests": len(answers),
        "failed": sum(answer.status != 200 for answer in answers),
        "seconds": round(seconds, 1),
        "resident_mb": [round(sample, 1) for sample in samples[:: max(1, len(samples) // 200)]],
        "mean_mb": round(float(half.mean()), 1),
        "above_mean_mb": round(float(half.max() - half.mean()), 1),
    }


def registrations(root: Path, count: int, progress: Console) -> dict[str, Any]:
    """Register and remove a second version `count` times under load; sample memory and temporary files after each."""
    small_server.prepare(root, ("1.0", "2.0"), ["minWorkers=1"])
    images = small_server.images()
    memory, files = [], []
    with small_server.serving(root, [f"{MODEL}=1.0"]) as state, Client.of_state(state) as client:
        url, headers = small_server.address(state)
        with (
            background_load.beside(url, images, headers, rate=RATE) as answers,
            progress.status("registering ...") as status,
        ):
            for number in range(count):
                client.register(path_of(MODEL, "2.0").name)
                wait_ready(client, [(MODEL, "2.0")], alive=lambda: state.process() is not None, timeout=60)
                drain.remove(client, MODEL, "2.0", images[0])
                time.sleep(0.5)
                files.append(sum(path.is_file() for path in Path(state.temporary).rglob("*")))
                memory.append(resident_mb(state))
                status.update(f"{number + 1} of {count}, {memory[-1]:.0f} MB, {files[-1]} files")
    first = min(len(memory) - 1, count // 10)  # by then Java and the allocator have reserved their memory
    return {
        "registrations": count,
        "requests": len(answers),
        "failed": sum(answer.status != 200 for answer in answers),
        "resident_mb": [round(sample, 1) for sample in memory[:: max(1, count // 200)]],
        "growth_mb": round(memory[-1] - memory[first], 1),
        "growth_from_first_mb": round(memory[-1] - memory[0], 1),
        "folder_growth": files[-1] - files[first],
    }


def show(sections: Mapping[str, Any]) -> None:
    """Print the table."""
    rows = []
    for name, memory in (("requests", "above_mean_mb"), ("leaking", "above_mean_mb"), ("registrations", "growth_mb")):
        if row := sections.get(name):
            times = row["registrations" if name == "registrations" else "requests"]
            rows.append((name, f"{times:,}", row["failed"], row[memory], f"{GOALS[memory]:g}"))
    console.print_table("memory growth", ("", "times", "failed", "MB", "at most"), rows)


def goals_met(sections: Mapping[str, Any]) -> bool:
    """Return whether nothing failed and only the leaking handler grew; a section that was not measured passes."""
    limit, leak, registered = GOALS["above_mean_mb"], sections.get("leaking"), sections.get("registrations")
    return (
        all(row["failed"] == 0 for row in sections.values())
        and ("requests" not in sections or sections["requests"]["above_mean_mb"] <= limit)
        and (leak is None or leak["above_mean_mb"] > limit)
        and (registered is None or (registered["growth_mb"] <= GOALS["growth_mb"] and registered["folder_growth"] <= 0))
    )


def main() -> int:
    """Measure, print and write the result; 1 where memory grows, or that of the leaking handler does not."""
    parser = console.parser("soak", __doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--leaking", type=int, default=60_000, help="requests to the handler that leaks")
    parser.add_argument("--registrations", type=int, default=200)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    progress, root = console.progress(), Path.cwd() / WORK
    sections = Sections("soak", options.output, goals=GOALS)
    if options.leaking:
        sections.write("leaking", requests(root, options.leaking, progress, leaking=True))
    if options.requests:
        sections.write("requests", requests(root, options.requests, progress))
    if options.registrations:
        sections.write("registrations", registrations(root, options.registrations, progress))
    show(sections.figures)
    return sections.publish(failed=not goals_met(sections.figures))


if __name__ == "__main__":
    sys.exit(main())
