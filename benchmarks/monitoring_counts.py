"""Compare counters with answers while workers die, and look for requests that monitoring costs.

    python -m benchmarks.monitoring_counts                         about 10 minutes; the full disk needs root (mount)
    python -m benchmarks.monitoring_counts --requests 2000 --seconds 5

`counts`: a closed loop sends images, bodies that are no image, and JSON with two images. A worker is killed twice, and
a version is swapped in between. The exporter's counters are compared with the answers, by version and class and by
version and status: of a killed worker's batch, answers may have been counted that no caller got.

`faults`: an open loop sends images while nothing happens (twice, the spread of the server), while the exporter is
scraped every second, killed every two seconds, while the counters cannot be written (the workers' limit of a file is
0 bytes), and while a version is deployed whose workers have a full disk for their counters, or no folder.
The last line is one JSON document.
"""

import base64
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.crashes import until
from benchmarks.harness import console, small_server
from benchmarks.harness.small_server import MODEL
from benchmarks.result import Sections
from benchmarks.traffic import background_load
from benchmarks.traffic.open_loop import TimedAnswer, quantile
from serving import deploy
from serving.client import Client
from serving.host import ports
from serving.host.state import ServerState
from serving.lifecycle import exporter, launch
from serving.lifecycle.deployment import DeployLimits

RESULT, WORK = Path("benchmarks/results/monitoring_counts.json"), Path("runs/bench-monitoring")
CODE = ("handlers", "monitoring", "serving")
WORKERS, BATCH, KILLS = 2, 8, 2
CONNECTIONS, RATE, TIMEOUT = 8, 30.0, 5.0  # of the closed loop; requests/s of the open loop; seconds
FULL_DISK = "64k"  # bytes of the disk of the counters: less than one worker's files have
Counts = Counter[tuple[str, str]]


def bodies() -> list[bytes]:
    """Return eight images, two bodies that are no image, and a document with two images."""
    images = small_server.images()
    document = {"instances": [{"b64": base64.b64encode(image).decode()} for image in images[:2]]}
    return [*images, b"no image", images[0][:2000], json.dumps(document).encode()]


def scrape(root: Path) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the samples of the exporter; HTTPError if it does not answer."""
    server = ServerState.read(root)
    assert server is not None
    address = f"http://127.0.0.1:{ports.exporter_port(server.metrics)}/metrics"
    families = text_string_to_metric_families(httpx.get(address, timeout=10, trust_env=False).text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def scrapes(root: Path) -> bool:
    """Return whether the exporter answers."""
    with contextlib.suppress(httpx.HTTPError):
        return bool(scrape(root))
    return False


def counted(root: Path, name: str, label: str) -> Counts:
    """Return a counter of the exporter by version and another label."""
    counts: Counts = Counter()
    for (sample, labels), value in scrape(root).items():
        if sample == name:
            counts[dict(labels)["version"], dict(labels)[label]] += int(value)
    return counts


def answered(answers: Sequence[TimedAnswer]) -> tuple[Counts, Counts]:
    """Return the answers of workers by version and class, and by version and status."""
    classes: Counts = Counter()
    codes: Counts = Counter()
    for answer in answers:
        if not answer.version:  # of the front end: the worker has died
            continue
        codes[answer.version, str(answer.status)] += 1
        if answer.status == 200:
            document = json.loads(answer.body)
            for labels in document.get("predictions", [document]):
                classes[answer.version, next(iter(labels))] += 1
    return classes, codes


def kill_a_worker(root: Path) -> None:
    """Kill a worker of the default version, and wait for its successor."""
    with Client(root=root) as client:
        pid = client.describe(MODEL).workers[0].pid
        psutil.Process(pid).kill()

        def replaced() -> bool:
            model = client.describe(MODEL)
            return model.ready and all(worker.pid != pid for worker in model.workers)

        until(replaced)


def swap(root: Path, version: str) -> None:
    """Deploy a version and keep the one before."""
    deploy.deploy(MODEL, version, root=root, verify=False, limits=DeployLimits(watch=0.5), log=lambda _: None)


@contextlib.contextmanager
def served(root: Path) -> Iterator[ServerState]:
    """Run a server of version 1.0 and an exporter beside it."""
    settings = [f"minWorkers={WORKERS}", f"batchSize={BATCH}", "maxBatchDelay=5", "maxRetryTimeoutInSec=1"]
    small_server.prepare(root, ("1.0", "2.0", "3.0"), settings)
    os.environ["PYTHONPATH"] = str(small_server.ROOT)  # of the exporter
    with small_server.serving(root, [f"{MODEL}=1.0"]) as state, exporter.beside(root):
        until(lambda: scrapes(root))
        yield state


def counts(root: Path, requests: int) -> dict[str, Any]:
    """Return the differences between counters and answers."""
    with served(root) as state:
        url, headers = small_server.address(state)
        load = background_load.Load(
            url, bodies(), headers, rate=0.0, connections=CONNECTIONS, timeout=TIMEOUT, count=requests
        )
        kill_a_worker(root)
        swap(root, "2.0")
        kill_a_worker(root)
        until(lambda: load.ended, timeout=3600)
        received = load.stop()
        classes, codes = answered(received)
        pairs = (
            ("predictions", classes, counted(root, "sightline_predictions_total", "class")),
            ("requests", codes, counted(root, "sightline_requests_total", "code")),
        )
        restarts = sum(value for (name, _), value in scrape(root).items() if name == "sightline_worker_restarts_total")
    return {
        "requests": len(received),
        "of_the_front_end": Counter(str(answer.status) for answer in received if not answer.version),
        "kills": KILLS,
        "restarts_counted": int(restarts),
        "batch": BATCH,
        **{
            name: {"answered": ours.total(), "missing": (ours - theirs).total(), "beyond": (theirs - ours).total()}
            for name, ours, theirs in pairs
        },
    }


def figures(answers: Sequence[TimedAnswer]) -> dict[str, Any]:
    """Return counts, and latencies in milliseconds."""
    milliseconds = np.array([1e3 * answer.latency for answer in answers])
    return {
        "requests": len(answers),
        "failed": sum(answer.status != 200 for answer in answers),
        **{f"p{q}": round(quantile(milliseconds, q / 100), 2) for q in (50, 99)},
    }


class Faults:
    """One server, and a function for each fault; each takes the event that ends it."""

    def __init__(self, root: Path, state: ServerState, seconds: float) -> None:
        self.root, self.seconds = root, seconds
        self.folder = launch.observations(state.temporary)
        self.notes: dict[str, Any] = {}

    def scrapes(self, end: threading.Event) -> None:
        """Scrape every second."""
        (process,) = exporters()
        before, count = sum(process.cpu_times()[:2]), 0
        while not end.wait(1.0):
            scrape(self.root)
            count += 1
        spent = sum(process.cpu_times()[:2]) - before
        self.notes["exporter_cpu_milliseconds_a_scrape"] = round(1000 * spent / max(count, 1), 1)
        self.notes["exporter_megabytes"] = round(process.memory_info().rss / 1e6)

    def kills(self, end: threading.Event) -> None:
        """Kill the exporter every two seconds."""
        while not end.wait(2.0):
            for process in exporters():
                process.kill()

    def writes_fail(self, end: threading.Event) -> None:
        """Limit the files of the workers to no bytes."""
        with Client(root=self.root) as client:
            pids = [worker.pid for model in client.versions(MODEL) for worker in model.workers]
        limits = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids}
        for pid, (_, hard) in limits.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        end.wait()
        for pid, limit in limits.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)

    def full_disk(self, end: threading.Event) -> None:
        """Deploy a version whose workers have no room for their files."""
        place = self.folder / MODEL / "2.0"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={FULL_DISK}", "tmpfs", place], check=True)
        try:
            swap(self.root, "2.0")
            end.wait()
        finally:
            subprocess.run(["umount", "--lazy", place], check=True)

    def no_folder(self, end: threading.Event) -> None:
        """Deploy a version while the folder is a file."""
        shutil.rmtree(self.folder)
        self.folder.touch()
        swap(self.root, "3.0")
        end.wait()

    def measure(self, fault: Callable[[threading.Event], object], state: ServerState) -> dict[str, Any]:
        """Return the figures of requests during a fault."""
        url, headers = small_server.address(state)
        end, failures = threading.Event(), list[BaseException]()

        def run() -> None:
            try:
                fault(end)
            except Exception as error:
                failures.append(error)

        with background_load.beside(url, small_server.images(), headers, rate=RATE, timeout=TIMEOUT) as answers:
            thread = threading.Thread(target=run)
            thread.start()
            thread.join(self.seconds)
            end.set()
            thread.join()
        if failures:
            raise failures[0]
        return figures(answers)


def exporters() -> list[psutil.Process]:
    """Return the exporter of this process, if it runs."""
    running = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in running if exporter.MODULE in child.cmdline()]


def faults(root: Path, seconds: float) -> dict[str, Any]:
    """Return the figures of each fault."""
    with served(root) as state:
        all_faults = Faults(root, state, seconds)
        steps: dict[str, Callable[[threading.Event], object]] = {
            "nothing": threading.Event.wait,
            "nothing again": threading.Event.wait,
            "scraped every second": all_faults.scrapes,
            "exporter killed every 2 s": all_faults.kills,
            "counters cannot be written": all_faults.writes_fail,
            "full disk, new version": all_faults.full_disk,
            "no folder, new version": all_faults.no_folder,
        }
        rows = {name: all_faults.measure(step, state) for name, step in steps.items()}
        log = (root / "logs" / "model_log.log").read_text()
    lines = {"not_written": "are not written at present", "no_metrics": "is served without metrics"}
    return {
        "rate": RATE,
        "rows": rows,
        **all_faults.notes,
        "log": {key: log.count(text) for key, text in lines.items()},
    }


def goals_met(sections: dict[str, Any]) -> bool:
    """Return whether counts differ by at most one batch a kill, and no request failed."""
    compared = sections.get("counts", {})
    close = all(
        part["missing"] == 0 and part["beyond"] <= size * KILLS * BATCH
        for name, size in (("predictions", 2), ("requests", 1))
        if (part := compared.get(name))
    )
    return close and not any(row["failed"] for row in sections.get("faults", {}).get("rows", {}).values())


def main() -> int:
    """Measure, print and write the result; 1 where a goal is missed."""
    parser = console.parser("monitoring_counts", __doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="of the closed loop; 0: leave this section out")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each fault; 0: leave this section out")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    root = Path.cwd() / WORK
    sections = Sections("monitoring_counts", options.output, code=CODE)
    start = time.monotonic()
    if options.requests:
        sections.write("counts", counts(root, options.requests))
    if options.seconds:
        sections.write("faults", faults(root, options.seconds))
    rows = [(name, *row.values()) for name, row in sections.figures.get("faults", {}).get("rows", {}).items()]
    console.print_table("requests", ("", "requests", "failed", "p50, ms", "p99, ms"), rows)
    print(f"{time.monotonic() - start:.0f} s; counts: {sections.figures.get('counts')}")
    return sections.publish(failed=not goals_met(sections.figures))


if __name__ == "__main__":
    sys.exit(main())
