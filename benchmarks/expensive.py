"""Send requests that take long beside good ones, with the watcher: what the good ones wait, and what is lost.

    python -m benchmarks.expensive                          three kinds of expensive requests, 2 minutes each
    python -m benchmarks.expensive --seconds 10 --kinds bombs

Seven connections send without a pause, whatever the answer says, beside 20 good requests/s through `serving.client`:
`bombs` 16 images of 50 megapixels in each request of 1 KB, `large` one such image, `many` several images that together
are as much as a batch has time for. `patient` are single ones through the client, which comes again when it is put off:
all of them are to be answered. The last line is one JSON document.
"""

import argparse
import base64
import collections
import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks import small_server
from benchmarks.client_load import through_client
from benchmarks.crashes import until, watcher
from benchmarks.sections import Sections
from benchmarks.small_server import MODEL
from serving.client import Client, ClientError
from serving.state import ServerState

RESULT, WORK = Path("benchmarks/results/expensive.json"), Path("runs/bench-expensive")
RATE, DEADLINE, CONNECTIONS = 20.0, 30.0, 7  # requests/s; seconds
GOALS = {"failed": 0, "p99": 3000.0, "workers_ended": 0}
WIDTH, HEIGHT = 8192, 6144  # pixels, the most that an image may have
KINDS = ("bombs", "large", "many", "patient")


def webp(width: int, height: int) -> bytes:
    """Return a whole lossless WebP of one colour, in which no pixel takes a bit (RFC 9649)."""
    codes = "0001" * 5  # each of the five has one symbol, and that is 0
    plain = "000" + "000" + "0"  # one group of codes, no cache, no transform; version 0; no alpha
    bits = int(f"{codes}{plain}{height - 1:014b}{width - 1:014b}{0x2F:08b}", 2)
    data = bits.to_bytes(18, "little")
    chunk = b"VP8L" + len(data).to_bytes(4, "little") + data
    return b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk


def body(images: Sequence[bytes]) -> bytes:
    """Return a request of the KServe v1 protocol."""
    return json.dumps({"instances": [{"b64": base64.b64encode(image).decode()} for image in images]}).encode()


BODIES = {
    "bombs": lambda: body([webp(WIDTH, HEIGHT)] * 16),
    "large": lambda: webp(WIDTH, HEIGHT),
    "many": lambda: body([webp(2048, 2048)] * 16),
}


def rude(known: ServerState, content: bytes, ended: threading.Event, seen: collections.Counter[str]) -> None:
    """Send one request after the other, without a pause."""
    headers = small_server.authorization(known)
    path = f"{known.inference}/predictions/{MODEL}"
    with httpx.Client(timeout=60, trust_env=False, headers=headers) as client:
        while not ended.is_set():
            try:
                seen[str(client.post(path, content=content).status_code)] += 1
            except httpx.HTTPError as error:
                seen[type(error).__name__] += 1


def patient(root: Path, ended: threading.Event, seen: collections.Counter[str]) -> None:
    """Ask for one image after the other through the client."""
    image = webp(WIDTH, HEIGHT)
    with Client(root=root, deadline=120) as client:
        while not ended.is_set():
            try:
                client.predict(image, MODEL)
                seen["200"] += 1
            except ClientError as error:
                seen[f"{type(error).__name__}: {error}"] += 1


def measure(root: Path, kind: str, seconds: float, console: Console) -> dict[str, Any]:
    """Send expensive requests of one kind for so many seconds beside good ones."""
    small_server.prepare(root, ["1.0"])
    ended, seen = threading.Event(), collections.Counter[str]()
    with small_server.serving(root, [MODEL]) as known, watcher(root), Client(root=root) as client:
        log = root / "logs" / "watch.log"
        until(log.exists)
        before = sorted(each.pid for each in client.describe(MODEL).workers)
        with (
            through_client(root, small_server.images(), rate=RATE, deadline=DEADLINE) as good,
            ThreadPoolExecutor(CONNECTIONS) as pool,
            console.status(f"{kind} ..."),
        ):
            tasks = [
                pool.submit(patient, root, ended, seen)
                if kind == "patient"
                else pool.submit(rude, known, BODIES[kind](), ended, seen)
                for _ in range(CONNECTIONS)
            ]
            time.sleep(seconds)
            ended.set()
            for task in tasks:
                task.result()
        after = sorted(each.pid for each in client.describe(MODEL).workers)
        said = [line for line in log.read_text().splitlines() if " INFO " not in line]
    return {
        "seconds": seconds,
        "workers": len(before),
        **good.figures(),
        "expensive": dict(seen),
        "workers_ended": len(set(before) - set(after)),
        "watcher": said,
    }


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print a table."""
    table = Table(title="good requests beside expensive ones")
    for heading in (
        "expensive",
        "their answers",
        "good",
        "failed",
        "p50, ms",
        "p99, ms",
        "slowest, ms",
        "workers ended",
    ):
        table.add_column(heading, justify="right")
    for kind, row in found.items():
        answers = ", ".join(f"{count} x {code}" for code, count in sorted(row["expensive"].items()))
        figures = (row["p50"], row["p99"], row["slowest_ms"], row["workers_ended"])
        table.add_row(kind, answers, str(row["requests"]), str(row["failed"]), *map(str, figures))
    console.print(table)


def held(row: Mapping[str, Any]) -> bool:
    """Return whether the goals are met, by as many good requests as there had to be beside expensive ones."""
    sent = row["expensive"] and row["requests"] >= 0.9 * RATE * row["seconds"]
    answered = sent and set(row["expensive"]) <= {"200", "413", "503"}
    return bool(answered) and not row["watcher"] and all(row[name] <= most for name, most in GOALS.items())


def main() -> int:
    """Measure, print and keep it; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.expensive", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    console, root = Console(stderr=True, markup=False, emoji=False), Path.cwd() / WORK
    sections = Sections("expensive", arguments.output, goals=GOALS, rate=RATE, connections=CONNECTIONS)
    for kind in arguments.kinds:
        sections.keep(kind, measure(root, kind, arguments.seconds, console))
    show(sections.found, Console(markup=False, emoji=False))
    print(json.dumps(sections.document))
    return int(not all(held(sections.found[kind]) for kind in arguments.kinds))


if __name__ == "__main__":
    sys.exit(main())
