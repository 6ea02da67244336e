"""Does the loader slow down training? Images/s with it, and with one batch that stays on the device.

    python -m benchmarks.training                                  generated images, 64 x 64
    python -m benchmarks.training dataset=petals trainer.epochs=1  a prepared data set, with its recipe
    python -m benchmarks.training --rounds 12 --steps 30 ...

Both kinds take turns in one run, so that other load of the machine affects both; both augment, as in the recipe. A
third kind, without augmentation, shows the share of augmentation. The same step as in training: augment,
normalize, network, loss, backward, optimizer, in the precision of training.

Writes benchmarks/results/training.json (--output: another file); the last line is the same JSON document. Exits with 1
where the loader reaches less than 95 % of the resident batch.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from benchmarks.harness import console
from benchmarks.result import TRAINING, Origin, publish
from handlers.spec import PreprocessSpec
from training.augmentation import Augmentation
from training.configuration import compose, plain, store_folder
from training.data.batches import Batch, Joined
from training.data.loaders import training_batches
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset
from training.pace import Stepper
from training.precision import use_all_cores
from training.run import network_name

RESULT = Path("benchmarks/results/training.json")
GOAL = 0.95
KINDS = ("loader", "resident", "not augmented")


def generated(folder: Path, images: int, side: int) -> tuple[Joined, tuple[str, ...], PreprocessSpec]:
    """Write a memory map of random images, and return it with names of classes and its preprocessing."""
    random = np.random.default_rng(0)
    pixels = open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=(images, 3, side, side))
    for start in range(0, images, 1000):
        pixels[start : start + 1000] = random.integers(0, 256, pixels[start : start + 1000].shape, dtype=np.uint8)
    pixels.flush()
    mapped = np.load(folder / "images.npy", mmap_mode="r")
    labels = random.integers(0, 12, images)
    spec = PreprocessSpec(image_size=side)
    return Joined(((mapped, labels, np.arange(images)),)), tuple(f"class {i}" for i in range(12)), spec


def prepared(settings: dict[str, Any], folder: Path) -> tuple[Joined, tuple[str, ...], PreprocessSpec]:
    """Open a prepared data set and return its training rows."""
    data = PreparedDataset.open(folder)
    split = data.split(SplitSpec.from_config(settings["split"]))
    joined = Joined(((data.images, data.labels, split.train),))
    return joined, data.classes, data.preprocess(*data.statistics(split.train))


def endless(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield epoch after epoch."""
    while True:
        yield from batches


def measure(
    stepper: Stepper, batches: Iterable[Batch], rounds: int, steps: int, waiting: int
) -> dict[str, list[float]]:
    """Return the seconds of each round of `steps` steps, by kind; a first round warms up.

    The loader has at most `waiting` batches ready before they are asked for.
    """
    loader = endless(batches)
    resident = stepper.on_device(next(loader))
    augmentations = [module for module in stepper.module.modules() if isinstance(module, Augmentation)]
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number, kind in itertools.product(range(rounds + 1), KINDS):
        for augmentation in augmentations:
            augmentation.enabled = kind != "not augmented"
        time = _round(stepper, loader if kind == "loader" else itertools.repeat(resident), steps, waiting)
        if number:
            seconds[kind].append(time)
    return seconds


def _round(stepper: Stepper, source: Iterator[Batch], steps: int, waiting: int) -> float:
    """Return the seconds of `steps` steps, without the batches that were loaded during the other kinds' turns."""
    for _ in range(waiting):
        next(source)
    stepper.wait()
    start = time.perf_counter()
    for batch in itertools.islice(source, steps):
        stepper.step(stepper.on_device(batch))
    stepper.wait()
    return time.perf_counter() - start


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = console.parser("training", __doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=20_000, help="number of generated images, without a data set")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code."""
    options = parsed(arguments)
    origin = Origin("training", arguments, code=TRAINING)
    named = any(override.startswith(("dataset=", "store=", "name=")) for override in options.overrides)
    base = [] if named else ["dataset=class_folders", "dataset.image_size=64"]
    config = compose([*base, "network=resnet18", *options.overrides])
    settings = plain(config)
    use_all_cores()
    with tempfile.TemporaryDirectory() as folder:
        if named:
            data, classes, spec = prepared(settings, store_folder(config))
        else:
            data, classes, spec = generated(Path(folder), options.images, settings["dataset"]["image_size"])
        stepper = Stepper(settings, classes, spec)
        trainer = settings["trainer"]
        batches = training_batches(data, trainer, stepper.device, seed=0, epoch=lambda: 0)
        seconds = measure(stepper, batches, options.rounds, options.steps, batches.prefetch + 1)
    images = options.steps * trainer["batch_size"]
    pace = {kind: images / statistics.median(times) for kind, times in seconds.items()}
    ratios = [b / a for a, b in zip(seconds["loader"], seconds["resident"], strict=True)]
    shares = [1 - b / a for a, b in zip(seconds["resident"], seconds["not augmented"], strict=True)]
    ratio, share = statistics.median(ratios), statistics.median(shares)
    document = {
        "benchmark": "training",
        **origin.document(stepper.device.type),
        "network": network_name(settings),
        "dataset": settings["dataset"]["name"] if named else "generated",
        "image_size": spec.image_size,
        "batch_size": trainer["batch_size"],
        "augmentation": settings["augmentation"],
        "precision": "bf16" if stepper.bf16 else "fp32",
        "images_per_second": {kind: round(value, 1) for kind, value in pace.items()},
        "ratio": round(ratio, 4),
        "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
        "goal": GOAL,
        "augmentation_share": round(share, 4),
        "rounds": options.rounds,
        "steps": options.steps,
    }
    for kind, value in pace.items():
        print(f"{kind:>14}  {value:8.1f} images/s")
    print(f"{'ratio':>14}  {ratio:8.3f}  (goal {GOAL})")
    print(f"{'augmentation':>14}  {100 * share:8.1f} % of the time")
    return publish(document, options.output, failed=ratio < GOAL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
