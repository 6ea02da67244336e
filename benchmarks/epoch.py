"""An epoch over shards of encoded images: does its memory stay the same, and does the loader keep up with the step?

    python -m benchmarks.epoch [--images 20000 200000] [--rounds 8] [--steps 20] [--folder <a disk with space>]

For each number of images, different generated JPEG files of 64 x 64 are prepared as shards and `training.train` runs
one epoch of ResNet-18 over them. Memory is the highest anonymous memory of all its processes (see
`benchmarks.prepare`). The loader decodes the largest set's shards while it trains, and takes turns with one batch that
stays on the device (see `benchmarks.training`).

Writes benchmarks/results/epoch.json; the last line is the same JSON document. Exits with 1 where the memory grows by
more than a fifth, or the loader reaches less than 95 % of the resident batch.
"""

import contextlib
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import console
from benchmarks.prepare import generate, peak_anonymous
from benchmarks.result import ROOT, TRAINING, Origin
from benchmarks.training import GOAL, measure
from handlers.machine import cores
from training.configuration import compose, plain, store_folder
from training.data.shards import EncodedBatches
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset
from training.pace import Stepper
from training.precision import use_all_cores

RESULT = Path("benchmarks/results/epoch.json")
MEMORY = 1.2
DECODED_AHEAD = 128  # images that each process has ready before they are asked for
SECONDS_BETWEEN_SAMPLES = 1.0


class EpochError(Exception):
    """A command failed; its message is printed above."""


def settings_of(images: int) -> tuple[str, ...]:
    """Return the settings of the data set with `images` images, and of its run."""
    name = f"images-{images}"
    data = ("dataset=class_folders", "dataset.image_size=64", "dataset.store=encoded", f"store={name}", f"raw={name}")
    return (*data, f"name={name}", "network=resnet18", "trainer.epochs=1", "trainer.batch_size=64")


def run(module: str, overrides: Sequence[str]) -> tuple[float, int]:
    """Run a command of training; return its seconds, and the highest anonymous memory of its processes in bytes.

    Raises:
        EpochError: it failed.
    """
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *overrides]
    with subprocess.Popen(command, stdout=sys.stderr, env=environment) as process:
        peak = peak_anonymous(process, SECONDS_BETWEEN_SAMPLES)
    if process.returncode:
        raise EpochError(f"{module} failed with exit status {process.returncode}: its reason is printed above")
    return time.perf_counter() - start, peak


def epoch(images: int) -> dict[str, Any]:
    """Generate, prepare and train; return the figures of one number of images."""
    generate(Path(f"images-{images}"), images)
    overrides = settings_of(images)
    prepare_seconds, _ = run("training.data.prepare", overrides)
    seconds, peak = run("training.train", overrides)
    figures = {"images": images, "prepare_seconds": round(prepare_seconds, 1), "train_seconds": round(seconds, 1)}
    return {**figures, "peak_anonymous_mb": round(peak / 1e6, 1)}


def loader(images: int, rounds: int, steps: int) -> dict[str, Any]:
    """Return images/s of the step with the loader and with a resident batch, and their ratios."""
    config = compose(settings_of(images))
    settings = plain(config)
    data = PreparedDataset.open(store_folder(config))
    rows = data.split(SplitSpec.from_config(settings["split"])).train
    stepper = Stepper(settings, data.classes, data.preprocess(*data.statistics(rows)))
    batches = EncodedBatches(data, rows, settings["trainer"]["batch_size"], seed=0)
    waiting = math.ceil(batches.workers * DECODED_AHEAD / batches.batch_size) + 1
    seconds = measure(stepper, batches, rounds, steps, waiting)
    ratios = [b / a for a, b in zip(seconds["loader"], seconds["resident"], strict=True)]
    count = steps * batches.batch_size
    return {
        "images_per_second": {
            name: round(count / statistics.median(seconds[name]), 1) for name in ("loader", "resident")
        },
        "ratio": round(statistics.median(ratios), 4),
        "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = console.parser("epoch", __doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="folder for temporary images and shards")
    options = parser.parse_args(arguments)
    origin = Origin("epoch", sys.argv[1:] if arguments is None else arguments, code=TRAINING)
    use_all_cores()
    try:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder, contextlib.chdir(folder):
            runs = [epoch(images) for images in options.images]
            rates = loader(options.images[-1], options.rounds, options.steps)
    except EpochError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    memory = round(runs[-1]["peak_anonymous_mb"] / runs[0]["peak_anonymous_mb"], 3)
    figures = {"processes": cores(), "runs": runs, "ratio_of_memory": memory, "loader": rates}
    failed = memory > MEMORY or rates["ratio"] < GOAL
    return origin.publish({**figures, "goals": {"memory": MEMORY, "loader": GOAL}}, RESULT, failed=failed)


if __name__ == "__main__":
    sys.exit(main())
