"""Ask a server for long, and change its versions often: what grows.

    python -m benchmarks.soak                                        200,000 requests, 200 registrations; 35 minutes
    python -m benchmarks.soak --requests 20000 --leaking 0 --registrations 0    what was found of the others stays

Requests are JPEG and PNG from 100 x 100 to 1200 x 1200 over 16 connections. Memory is what is resident of the front end
and all workers together, once a second; over the second half of the time its maximum may be 50 MB above its mean. The
same is asked of a handler that keeps 10 KB of each request, which has to fail. Versions are registered and removed
beside a load of 20 requests/s. The last line is one JSON document.
"""

import argparse
import contextlib
import io
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks import background_load, small_server
from benchmarks.background_load import Load
from benchmarks.sections import Sections
from benchmarks.small_server import MODEL
from serving import drain
from serving.client import Client
from serving.model_store import path_of
from serving.readiness import wait_ready
from serving.state import ServerState
from training.generate import places365

RESULT, WORK = Path("benchmarks/results/soak.json"), Path("runs/bench-soak")
CONNECTIONS, LONGEST, RATE = 16, 3600.0, 20.0  # seconds; requests/s beside registrations
SIDES = (100, 200, 640, 1200)  # pixels; the largest as JPEG alone
GOALS = {"above_mean_mb": 50.0, "growth_mb": 50.0, "folder_growth": 0}
LEAK = """
_kept = []
_handle = ImageHandler.handle
def _keeping(self, data, context):
    _kept.extend(bytearray(10_000) for _ in data)
    return _handle(self, data, context)
ImageHandler.handle = _keeping
"""


def resident(known: ServerState) -> float:
    """Return the megabytes of the front end and of all that it started."""
    front = known.process()
    total = 0
    for each in [front, *front.children(recursive=True)] if front is not None else []:
        with contextlib.suppress(psutil.Error):
            total += each.memory_info().rss
    return total / 1e6


def mixed() -> list[bytes]:
    """Return drawn images of all sizes, as JPEG and PNG."""
    found = [places365.image(0, number, 1, 0, side) for number, side in enumerate(SIDES)]
    for image in [Image.open(io.BytesIO(each)) for each in found[:3]]:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def requests(root: Path, count: int, console: Console, *, leaking: bool = False) -> dict[str, Any]:
    """Send so many requests, or for an hour, and look at the memory."""
    small_server.prepare(root, ["1.0"])
    if leaking:
        small_server.spoil(path_of(MODEL, "1.0", root / "model_store"), LEAK)
    samples = []
    with small_server.serving(root, [MODEL]) as known, console.status("asking ...") as status:
        began = time.monotonic()
        load = Load(
            f"{known.inference}/predictions/{MODEL}", mixed(), small_server.authorization(known),
            rate=0.0, connections=CONNECTIONS, timeout=60.0, count=count,
        )  # fmt: skip
        while not load.ended and time.monotonic() - began < LONGEST:
            samples.append(resident(known))
            status.update(f"{time.monotonic() - began:.0f} s, {samples[-1]:.0f} MB")
            time.sleep(1)
        seconds = time.monotonic() - began
        answers, _ = load.stop()
    half = np.array(samples[len(samples) // 2 :])
    return {
        "requests": len(answers),
        "failed": sum(each.status != 200 for each in answers),
        "seconds": round(seconds, 1),
        "resident_mb": [round(each, 1) for each in samples[:: max(1, len(samples) // 200)]],
        "mean_mb": round(float(half.mean()), 1),
        "above_mean_mb": round(float(half.max() - half.mean()), 1),
    }


def registrations(root: Path, count: int, console: Console) -> dict[str, Any]:
    """Register and remove a second version so many times beside a load; look at what is left of each."""
    small_server.prepare(root, ("1.0", "2.0"), ["minWorkers=1"])
    pictures_ = small_server.images()
    found: list[tuple[float, int]] = []
    with small_server.serving(root, [f"{MODEL}=1.0"]) as known, Client.of_state(known) as client:
        url, headers = f"{known.inference}/predictions/{MODEL}", small_server.authorization(known)
        with (
            background_load.beside(url, pictures_, headers, rate=RATE) as answers,
            console.status("registering ...") as status,
        ):
            for number in range(count):
                client.register(path_of(MODEL, "2.0").name)
                wait_ready(client, [(MODEL, "2.0")], alive=lambda: known.process() is not None, timeout=60)
                drain.remove(client, MODEL, "2.0", pictures_[0])
                time.sleep(0.5)
                files = sum(each.is_file() for each in Path(known.temporary).rglob("*"))
                found.append((resident(known), files))
                status.update(f"{number + 1} of {count}, {found[-1][0]:.0f} MB, {files} files")
    first = found[min(len(found) - 1, count // 10)]  # Java and the allocator have what they need after some
    return {
        "registrations": count,
        "requests": len(answers),
        "failed": sum(each.status != 200 for each in answers),
        "resident_mb": [round(each, 1) for each, _ in found[:: max(1, count // 200)]],
        "growth_mb": round(found[-1][0] - first[0], 1),
        "growth_from_first_mb": round(found[-1][0] - found[0][0], 1),
        "folder_growth": found[-1][1] - found[0][1],
    }


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print a table."""
    table = Table(title="what grows")
    for heading in ("", "times", "failed", "MB", "at most"):
        table.add_column(heading, justify="right")
    for name, memory in (("requests", "above_mean_mb"), ("leaking", "above_mean_mb"), ("registrations", "growth_mb")):
        if row := found.get(name):
            times = row["registrations" if name == "registrations" else "requests"]
            table.add_row(name, f"{times:,}", str(row["failed"]), str(row[memory]), f"{GOALS[memory]:g}")
    console.print(table)


def held(found: Mapping[str, Any]) -> bool:
    """Return whether nothing failed and nothing grew but the handler that leaks; a section not measured holds."""
    limit, leak, left = GOALS["above_mean_mb"], found.get("leaking"), found.get("registrations")
    return (
        all(row["failed"] == 0 for row in found.values())
        and ("requests" not in found or found["requests"]["above_mean_mb"] <= limit)
        and (leak is None or leak["above_mean_mb"] > limit)
        and (left is None or (left["growth_mb"] <= GOALS["growth_mb"] and left["folder_growth"] <= 0))
    )


def main() -> int:
    """Measure, print and keep it; 1 where something grows, or the leak was not found."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--leaking", type=int, default=60_000, help="requests to the handler that leaks")
    parser.add_argument("--registrations", type=int, default=200)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    console, root = Console(stderr=True, markup=False, emoji=False), Path.cwd() / WORK
    sections = Sections("soak", arguments.output, goals=GOALS)
    if arguments.leaking:
        sections.keep("leaking", requests(root, arguments.leaking, console, leaking=True))
    if arguments.requests:
        sections.keep("requests", requests(root, arguments.requests, console))
    if arguments.registrations:
        sections.keep("registrations", registrations(root, arguments.registrations, console))
    show(sections.found, Console(markup=False, emoji=False))
    print(json.dumps(sections.document))
    return int(not held(sections.found))


if __name__ == "__main__":
    sys.exit(main())
