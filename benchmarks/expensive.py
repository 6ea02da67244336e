"""Send expensive requests beside good ones, with the watcher: how long do the good ones wait, and do any fail?

    python -m benchmarks.expensive                          three kinds of expensive requests, 2 minutes each
    python -m benchmarks.expensive --seconds 10 --kinds bombs

Seven connections send without a pause, whatever the answer is, beside 20 good requests/s through `serving.client`:
`bombs` 16 images of 50 megapixels in each request of 1 KB, `large` one such image, `many` 16 images that take the whole
time budget of a batch. `patient` are single images through the client, which retries: all of them must be answered. The
last line is one JSON document.
"""

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

from benchmarks.crashes import until, watcher
from benchmarks.harness import console, small_server
from benchmarks.harness.small_server import MODEL
from benchmarks.result import Sections
from benchmarks.traffic.client_load import through_client
from serving.client import Client, ClientError
from serving.host.state import ServerState

RESULT, WORK = Path("benchmarks/results/expensive.json"), Path("runs/bench-expensive")
RATE, DEADLINE, CONNECTIONS = 20.0, 30.0, 7  # requests/s; seconds
GOALS = {"failed": 0, "p99": 3000.0, "workers_ended": 0}
WIDTH, HEIGHT = 8192, 6144  # pixels, the most that an image may have
KINDS = ("bombs", "large", "many", "patient")


def webp(width: int, height: int) -> bytes:
    """Return a valid lossless WebP of one colour, in which no pixel takes a bit (RFC 9649)."""
    codes = "0001" * 5  # each of the five has one symbol, 0
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


def rude(state: ServerState, content: bytes, ended: threading.Event, answers: collections.Counter[str]) -> None:
    """Send one request after the other, without a pause."""
    url, headers = small_server.address(state)
    with httpx.Client(timeout=60, trust_env=False, headers=headers) as client:
        while not ended.is_set():
            try:
                answers[str(client.post(url, content=content).status_code)] += 1
            except httpx.HTTPError as error:
                answers[type(error).__name__] += 1


def patient(root: Path, ended: threading.Event, answers: collections.Counter[str]) -> None:
    """Send one image after the other through the client."""
    image = webp(WIDTH, HEIGHT)
    with Client(root=root, deadline=120) as client:
        while not ended.is_set():
            try:
                client.predict(image, MODEL)
                answers["200"] += 1
            except ClientError as error:
                answers[f"{type(error).__name__}: {error}"] += 1


def measure(root: Path, kind: str, seconds: float, progress: Console) -> dict[str, Any]:
    """Send expensive requests of one kind for some seconds beside good ones."""
    small_server.prepare(root, ["1.0"])
    ended, answers = threading.Event(), collections.Counter[str]()
    with small_server.serving(root, [MODEL]) as state, watcher(root), Client(root=root) as client:
        log = root / "logs" / "watch.log"
        until(log.exists)
        before = sorted(worker.pid for worker in client.describe(MODEL).workers)
        with (
            through_client(root, small_server.images(), rate=RATE, deadline=DEADLINE) as good,
            ThreadPoolExecutor(CONNECTIONS) as pool,
            progress.status(f"{kind} ..."),
        ):
            if kind == "patient":
                tasks = [pool.submit(patient, root, ended, answers) for _ in range(CONNECTIONS)]
            else:
                tasks = [pool.submit(rude, state, BODIES[kind](), ended, answers) for _ in range(CONNECTIONS)]
            time.sleep(seconds)
            ended.set()
            for task in tasks:
                task.result()
        after = sorted(worker.pid for worker in client.describe(MODEL).workers)
        warnings = [line for line in log.read_text().splitlines() if " INFO " not in line]
    return {
        "seconds": seconds,
        "workers": len(before),
        **good.figures(),
        "expensive": dict(answers),
        "workers_ended": len(set(before) - set(after)),
        "watcher": warnings,
    }


def show(sections: Mapping[str, Any]) -> None:
    """Print the table."""
    figures = ("requests", "failed", "p50", "p99", "slowest_ms", "workers_ended")
    rows = []
    for kind, row in sections.items():
        answers = ", ".join(f"{count} x {code}" for code, count in sorted(row["expensive"].items()))
        rows.append((kind, answers, *(row[name] for name in figures)))
    head = ("expensive", "answers", "good", "failed", "p50, ms", "p99, ms", "slowest, ms", "workers ended")
    console.print_table("good requests beside expensive ones", head, rows)


def goals_met(row: Mapping[str, Any]) -> bool:
    """Return whether the goals are met, and 90 % of the scheduled good requests and some expensive ones were sent."""
    answers = set(row["expensive"])
    complete = answers and row["requests"] >= 0.9 * RATE * row["seconds"]
    expected = complete and answers <= {"200", "413", "503"} and not row["watcher"]
    return bool(expected) and all(row[name] <= limit for name, limit in GOALS.items())


def main() -> int:
    """Measure, print and write the result; 1 where a goal is missed."""
    parser = console.parser("expensive", __doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    progress, root = console.progress(), Path.cwd() / WORK
    sections = Sections("expensive", options.output, goals=GOALS, rate=RATE, connections=CONNECTIONS)
    for kind in options.kinds:
        sections.write(kind, measure(root, kind, options.seconds, progress))
    show(sections.figures)
    return sections.publish(failed=not all(goals_met(sections.figures[kind]) for kind in options.kinds))


if __name__ == "__main__":
    sys.exit(main())
