"""What our parts reach without a server: the ceiling that a served rate is held against.

    python -m benchmarks.in_process RUN --precision bf16 --workers 2 --batch 16 --bodies FOLDER [--bodies FOLDER ...]

Loops over batches of the served size in as many processes as are served with: one step after the other, as the handler
does, and with the next batch decoded while the network computes; and one process with all threads. The fastest counts.
And single images, for the latency of one connection. The last line is one JSON document; seconds are of each loop.
"""

import argparse
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

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

WARM_UP = 4  # batches
PATIENCE = 600.0  # seconds for everything


def batches(images: list[bytes], size: int) -> Iterator[list[bytes]]:
    """Yield batches of different images without end."""
    endless = itertools.cycle(images)
    while True:
        yield list(itertools.islice(endless, size))


def simple(classifier: Classifier, source: Iterator[list[bytes]]) -> Iterator[int]:
    """Classify batch after batch, and yield how many images each had."""
    for batch in source:
        yield len(classifier.classify(batch))


def pipelined(classifier: Classifier, source: Iterator[list[bytes]]) -> Iterator[int]:
    """The same with the next batch decoded in a thread while the network computes."""
    with ThreadPoolExecutor(1, "ahead") as pool:
        ahead = pool.submit(classifier.decode, next(source))
        while True:
            decoded = ahead.result()
            ahead = pool.submit(classifier.decode, next(source))
            rows = classifier.predict([image for image in decoded if not isinstance(image, Exception)])
            yield len(classifier.encode(rows))


def rate(loop: Iterator[int], seconds: float) -> float:
    """Return images a second of a loop, after a few batches that do not count."""
    for _ in range(WARM_UP):
        next(loop)
    began, images = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        images += next(loop)
    return images / (time.perf_counter() - began)


def single(answer: Callable[[bytes], object], images: list[bytes], seconds: float) -> float:
    """Return the median milliseconds of one image alone."""
    spent: list[float] = []
    endless = itertools.cycle(images)
    for _ in range(WARM_UP):
        answer(next(endless))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not spent:
        began = time.perf_counter()
        answer(next(endless))
        spent.append(1e3 * (time.perf_counter() - began))
    return statistics.median(spent)


def read(folder: Path) -> list[bytes]:
    """Return the images of a folder."""
    return [path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg")]


def measure(options: argparse.Namespace, number: int, together: Barrier, found: "Queue[Any]") -> None:
    """Measure every folder in one of the workers, all of which begin each loop together; put what came of it.

    The first of them then measures alone what one connection waits for, and one process on all cores.
    """
    classifier = Classifier(options.run / "model.pt", threads=options.threads, precision=options.precision)
    classifier.warm_up(options.batch)
    rates: dict[str, dict[str, float]] = {}
    for folder in options.bodies:
        images = read(folder)
        rates[folder.name] = {}
        for name, loop in (("in_turn", simple), ("pipelined", pipelined)):
            together.wait()
            rates[folder.name][name] = rate(loop(classifier, batches(images, options.batch)), options.seconds)
    together.wait()
    if not number:
        alone: dict[str, Any] = {"threads": options.workers * options.threads, "precision": options.precision}
        for folder in options.bodies:
            images = read(folder)
            rates[folder.name]["single_ms"] = single(
                lambda image: classifier.classify([image]), images, options.seconds / 2
            )
        whole = Classifier(options.run / "model.pt", **alone) if options.workers > 1 else classifier
        whole.warm_up(options.batch)
        for folder in options.bodies:
            source = batches(read(folder), options.batch)
            rates[folder.name]["one_process"] = rate(simple(whole, source), options.seconds)
    found.put((number, rates))


def main() -> None:
    """Measure every folder with as many workers as are served with, and print the document."""
    options = parse()
    context = multiprocessing.get_context("spawn")
    together, queue = context.Barrier(options.workers, timeout=300), context.Queue()
    workers = [
        context.Process(target=measure, args=(options, number, together, queue), daemon=True)
        for number in range(options.workers)
    ]
    for each in workers:
        each.start()
    found: dict[int, Any] = {}
    deadline = time.monotonic() + PATIENCE
    while len(found) < options.workers:
        try:
            number, rates = queue.get(timeout=1)
        except Empty:
            if any(each.exitcode for each in workers) or time.monotonic() > deadline:
                sys.exit("error: one of the workers failed; run the same command by hand to see why")
            continue
        found[number] = rates
    document: dict[str, Any] = {}
    for folder, first in found[0].items():
        sums = {name: sum(rates[folder][name] for rates in found.values()) for name in ("in_turn", "pipelined")}
        document[folder] = {**first, **sums, "images_per_second": max(*sums.values(), first["one_process"])}
    print(json.dumps(document))


if __name__ == "__main__":
    main()
