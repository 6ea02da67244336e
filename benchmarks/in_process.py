"""What our parts reach without a server: the ceiling that a served rate is held against.

    python -m benchmarks.in_process RUN --precision bf16 --threads 2 --batch 8 --bodies FOLDER [--bodies FOLDER ...]

Two loops over batches of the served size with the served threads: one after the other, as the handler does, and with
the next batch decoded while the network computes; the faster counts. And single images, for the latency of one
connection. The last line is one JSON document; seconds are those of each loop and folder.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.peers.options import parse
from handlers.classifier import Classifier

WARM_UP = 4  # batches


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
            yield len([classifier.encode(row) for row in rows])


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


def main() -> None:
    """Measure every folder and print the document."""
    options = parse()
    classifier = Classifier(options.run / "model.pt", threads=options.threads, precision=options.precision)
    classifier.warm_up(options.batch)
    found: dict[str, Any] = {}
    for folder in options.bodies:
        images = read(folder)
        in_turn = rate(simple(classifier, batches(images, options.batch)), options.seconds)
        ahead = rate(pipelined(classifier, batches(images, options.batch)), options.seconds)
        found[folder.name] = {
            "images_per_second": max(in_turn, ahead),
            "in_turn": in_turn,
            "pipelined": ahead,
            "single_ms": single(lambda image: classifier.classify([image]), images, options.seconds / 2),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
