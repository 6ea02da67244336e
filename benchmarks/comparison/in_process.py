"""Measure the rate of our parts without a server: the upper bound of a served rate.

    python -m benchmarks.comparison.in_process RUN --precision bf16 --workers 2 --batch 16 --bodies FOLDER [...]

Loops over batches of the served size in as many processes as the server has workers: step by step, as in the handler,
and with the next batch decoded while the network computes; then one process with all threads. The fastest counts.
Single images give the latency of one connection. The last line is one JSON document.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

from benchmarks.peers.options import parse
from handlers.classifier import Classifier
from handlers.lookahead import map_ahead
from handlers.run_folder import RunFolder

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

WARM_UP = 4  # batches
TIMEOUT = 600.0  # seconds of the whole measurement


def batches(images: list[bytes], size: int) -> Iterator[list[bytes]]:
    """Yield batches of different images, endlessly."""
    endless = itertools.cycle(images)
    while True:
        yield list(itertools.islice(endless, size))


def simple(classifier: Classifier, source: Iterator[list[bytes]]) -> Iterator[int]:
    """Classify batch after batch, and yield the number of images of each."""
    for batch in source:
        yield len(classifier.classify(batch))


def pipelined(classifier: Classifier, source: Iterator[list[bytes]]) -> Iterator[int]:
    """The same with the next batch decoded in a thread while the network computes."""
    with ThreadPoolExecutor(1, "ahead") as pool:
        for decoded in map_ahead(pool, classifier.decode, source, 1):
            rows = classifier.predict([image for image in decoded if not isinstance(image, Exception)])
            yield len(classifier.encode(rows))


LOOPS = {"in_turn": simple, "pipelined": pipelined}


def rate(loop: Iterator[int], seconds: float) -> float:
    """Return images a second of a loop, after a warm-up of a few batches."""
    for _ in range(WARM_UP):
        next(loop)
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        images += next(loop)
    return images / (time.perf_counter() - start)


def single(classify: Callable[[bytes], object], images: list[bytes], seconds: float) -> float:
    """Return the median milliseconds of a single image."""
    times: list[float] = []
    endless = itertools.cycle(images)
    for _ in range(WARM_UP):
        classify(next(endless))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times:
        start = time.perf_counter()
        classify(next(endless))
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def read(folder: Path) -> list[bytes]:
    """Return the images of a folder."""
    return [path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg")]


def measure(options: argparse.Namespace, number: int, barrier: Barrier, results: "Queue[Any]") -> None:
    """Measure every folder in one of the worker processes, which start each loop at the same time.

    Afterwards the first of them measures single images, and one process on all cores.
    """
    classifier = Classifier(RunFolder(options.run).model, threads=options.threads, precision=options.precision)
    classifier.warm_up(options.batch)
    rates: dict[str, dict[str, float]] = {folder.name: {} for folder in options.bodies}
    for folder, (name, loop) in itertools.product(options.bodies, LOOPS.items()):
        images = read(folder)
        barrier.wait()
        rates[folder.name][name] = rate(loop(classifier, batches(images, options.batch)), options.seconds)
    barrier.wait()
    if number == 0:
        for folder in options.bodies:
            milliseconds = single(lambda image: classifier.classify([image]), read(folder), options.seconds / 2)
            rates[folder.name]["single_ms"] = milliseconds
        if options.workers > 1:
            threads = options.workers * options.threads
            classifier = Classifier(RunFolder(options.run).model, threads=threads, precision=options.precision)
        classifier.warm_up(options.batch)
        for folder in options.bodies:
            source = batches(read(folder), options.batch)
            rates[folder.name]["one_process"] = rate(simple(classifier, source), options.seconds)
    results.put((number, rates))


def main() -> None:
    """Measure every folder with as many processes as the server has workers, and print the document."""
    options = parse()
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(options.workers, timeout=300), context.Queue()
    workers = [
        context.Process(target=measure, args=(options, number, barrier, queue), daemon=True)
        for number in range(options.workers)
    ]
    for worker in workers:
        worker.start()
    results: dict[int, Any] = {}
    deadline = time.monotonic() + TIMEOUT
    while len(results) < options.workers:
        with contextlib.suppress(Empty):
            number, rates = queue.get(timeout=1)
            results[number] = rates
            continue
        if any(worker.exitcode for worker in workers) or time.monotonic() > deadline:
            sys.exit("error: a worker process failed; run the same command in a terminal to see why")
    document: dict[str, Any] = {}
    for folder, first in results[0].items():
        sums = {name: sum(rates[folder][name] for rates in results.values()) for name in LOOPS}
        document[folder] = {**first, **sums, "images_per_second": max(*sums.values(), first["one_process"])}
    print(json.dumps(document))


if __name__ == "__main__":
    main()
