"""Ask a server whose tokens live for a minute, for minutes, from two processes: what the change of tokens costs.

    python -m benchmarks.keys                              5 minutes, 20 requests/s
    python -m benchmarks.keys --seconds 15 --life 6        shorter, and tokens of 6 seconds

Load is open loop through `serving.client`, latency counts from the scheduled sending, an answer has 5 s. The last line
is one JSON document.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import logging
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import open_loop, small_server
from benchmarks.result import Origin
from benchmarks.small_server import MODEL
from handlers.atomic import write_json
from serving.client import Client, ClientError
from training.train import versions

RESULT, WORK = Path("benchmarks/results/keys.json"), Path("runs/bench-keys")
DEADLINE, THREADS = 5.0, 32  # seconds of an answer; under way in a process
PACKAGES = ("torchserve", "httpx", "filelock")


@dataclasses.dataclass(slots=True)
class Sent:
    """What one process saw: seconds from the scheduled sending to each answer, NaN for none, and why there was none."""

    latencies: list[float] = dataclasses.field(default_factory=list)
    lateness: list[float] = dataclasses.field(default_factory=list)
    errors: Counter[str] = dataclasses.field(default_factory=Counter)
    renewals: int = 0
    refusals: int = 0  # of a token, by the server


class _Log(logging.Handler):
    """Counts the client's own requests by what httpx says of each: its address and its status, and no token."""

    def __init__(self, sent: Sent) -> None:
        super().__init__(logging.INFO)
        self.sent = sent

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        self.sent.renewals += "/token?" in line and " 200 " in line
        self.sent.refusals += " 400 " in line


def wait(together: Barrier) -> None:
    """Wait for the other processes, each of which takes seconds to import what it needs."""
    together.wait()


def send(root: Path, model: str, picture: bytes, times: Sequence[float]) -> Sent:
    """Send a request at each of `times`, seconds from now, and return what came of them."""
    sent, start = Sent(), time.time()
    logger = logging.getLogger("httpx")
    logger.setLevel(logging.INFO)
    logger.addHandler(_Log(sent))
    with Client(root=root, deadline=DEADLINE) as client, ThreadPoolExecutor(THREADS) as pool:

        def ask(due: float) -> float | ClientError:
            sent.lateness.append(time.time() - due)
            try:
                client.predict(picture, model)
            except ClientError as error:
                return error
            return time.time() - due

        asked = []
        for each in times:
            time.sleep(max(0.0, start + each - time.time()))
            asked.append(pool.submit(ask, start + each))
        for future in asked:
            answer = future.result()
            sent.latencies.append(answer if isinstance(answer, float) else float("nan"))
            if not isinstance(answer, float):
                sent.errors[f"{type(answer).__name__}: {answer}"] += 1
    return sent


def measure(
    root: Path, model: str, picture: bytes, *, seconds: float, rate: float, processes: int, console: Console
) -> dict[str, Any]:
    """Load the server that runs in `root` with `rate` requests/s; return the figures, times in milliseconds."""
    times = open_loop.schedule(rate, seconds)
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(processes + 1)
    with (
        Progress(console=console) as progress,
        ProcessPoolExecutor(processes, mp_context=context, initializer=wait, initargs=(together,)) as pool,
    ):
        parts = [pool.submit(send, root, model, picture, times[number::processes]) for number in range(processes)]
        together.wait()
        task, start = progress.add_task("asking", total=times[-1]), time.time()
        while not all(part.done() for part in parts):
            progress.update(task, completed=time.time() - start)
            time.sleep(0.5)
        sent = [part.result() for part in parts]
    latencies = [each for part in sent for each in part.latencies]
    lateness = [each for part in sent for each in part.lateness]
    return {
        **dataclasses.asdict(open_loop.summarize(latencies, lateness, rate=rate, waited=0)),
        "errors": dict(sum((part.errors for part in sent), Counter())),
        "seconds": round(times[-1], 1),
        "renewals": [part.renewals for part in sent],
        "refusals": [part.refusals for part in sent],
    }


def show(found: dict[str, Any], life: float, console: Console) -> None:
    """Print a table."""
    table = Table(title=f"tokens of {life:g} s, {len(found['renewals'])} processes")
    table.add_column("")
    table.add_column("measured", justify="right")
    rows = {
        "requests": f"{found['requests']:,}",
        "seconds": f"{found['seconds']:g}",
        "failed": str(found["failures"]),
        "tokens renewed, by process": " + ".join(map(str, found["renewals"])),
        "sent again, with the token that came after": str(sum(found["refusals"])),
        "median, 99 %, slowest, ms": f"{found['p50']:.1f}, {found['p99']:.1f}, {found['longest']:.1f}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def main(arguments: Sequence[str]) -> int:
    """Measure, print and keep it; 1 where a request failed or no token was renewed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.keys", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--rate", type=float, default=20.0, help="requests/s, of all processes")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--life", type=float, default=60.0, metavar="SECONDS", help="of a token")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    origin = Origin("keys", arguments)
    root = Path.cwd() / WORK
    small_server.prepare(root, ["1.0"], properties=f"token_expiration_min={options.life / 60}")
    (picture,) = small_server.images(1)
    with small_server.serving(root, [MODEL]):
        found = measure(
            root, MODEL, picture, seconds=options.seconds, rate=options.rate, processes=options.processes,
            console=Console(stderr=True, markup=False, emoji=False),
        )  # fmt: skip
    show(found, options.life, Console(markup=False, emoji=False))
    document = {
        "benchmark": "keys",
        **origin.document(),
        "token_seconds": options.life,
        **found,
        "goals": {"failures": 0},
        "versions": versions() | {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    write_json(options.output, document)
    print(json.dumps(document))
    return int(found["failures"] > 0 or not sum(found["renewals"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
