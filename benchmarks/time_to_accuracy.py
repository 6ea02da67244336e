"""Measure how long training from scratch takes to reach an accuracy on held-out frames. ASL alphabet, 64 x 64.

    python -m benchmarks.time_to_accuracy [--raw RAW] [--goal 0.995] [key=value ...]

RAW is the raw ASL alphabet, by default that of SIGHTLINE_REAL_DATA; without it, frames are drawn, whose figures do not
apply to real ones. The time is that of all epochs up to the first one after which the accuracy on the held-out frames
reaches the goal, validation included, without preparing the data. `key=value` are settings of `training.train`; the
batches are larger than those of the recipe, which is for a CPU.

The last line is one JSON document; exits with 1 where the goal was not reached.
"""

import argparse
import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import console
from benchmarks.result import publish
from handlers.run_folder import RunFolder

GOAL = 0.995
NAME, DRAWN = "time-to-accuracy", Path("data/raw/time-to-accuracy")
# Four times the recipe's batch size, twice its rate (the square root: arXiv:1404.5997), averaged over as many images.
# Frames of the films that were trained on ask for weaker augmentation than other people's hands do.
AFFINE = "{op: RandomAffine, degrees: 12, translate: [0.1, 0.1], scale: [0.8, 1.15], padding_mode: reflection, p: 0.9}"
COLOUR = "{op: ColorJitter, brightness: 0.2, contrast: 0.2, saturation: 0.2, hue: 0.0, p: 0.5}"
RECIPE = ("trainer.batch_size=256", "trainer.lr=0.2", "trainer.ema=0.992", f"augmentation=[{AFFINE}, {COLOUR}]")


def reached(accuracies: Sequence[float], seconds: Sequence[float], goal: float) -> float | None:
    """Return the seconds up to the end of the first epoch whose accuracy is at least `goal`; None without one."""
    ends = itertools.accumulate(seconds)
    return next((end for accuracy, end in zip(accuracies, ends, strict=True) if accuracy >= goal), None)


def measure(raw: Path | None, goal: float, images: int | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Prepare, train from scratch, and return the figures.

    Raises:
        CalledProcessError: a command failed and printed why.
    """
    if raw is None:
        number = ["--images-per-class", str(images)] if images else []
        _do("synthetic", "asl_alphabet", str(DRAWN), "--size", "64", *number)
    network = [] if any(override.startswith("network=") for override in overrides) else ["network=resnet18"]
    overrides = [*network, *overrides]
    data = ("dataset=asl_alphabet", f"store={NAME}")
    prepared = [override for override in overrides if override.startswith(("dataset.", "network="))]
    _do("training.data.prepare", *data, f"raw={(raw or DRAWN).absolute()}", *prepared)
    run = RunFolder.of(NAME)
    shutil.rmtree(run.path, ignore_errors=True)
    _do("training.train", *data, f"name={NAME}", *RECIPE, *overrides)
    training = json.loads(run.training.read_text())
    with open(run.epoch_metrics, encoding="utf-8") as file:
        accuracies = [float(row["validation_accuracy"]) for row in csv.DictReader(file)]
    seconds = reached(accuracies, training["seconds_by_epoch"], goal)
    copied = ("images", "network", "image_size", "precision", "machine", "versions", "epochs", "seconds")
    return {
        "benchmark": "time to accuracy",
        "command": " ".join(["python -m benchmarks.time_to_accuracy", *sys.argv[1:]]),
        "real": raw is not None,
        "goal": goal,
        "seconds_to_goal": None if seconds is None else round(seconds, 2),
        "best": max(accuracies),
        **{name: training[name] for name in copied},
    }


def real() -> Path | None:
    """Return the folder of the real frames, or None."""
    named = os.environ.get("SIGHTLINE_REAL_DATA")
    folder = Path(named) / "asl_alphabet" if named else None
    return folder if folder is not None and folder.is_dir() else None


def _do(module: str, *arguments: str) -> None:
    # Standard output is only for the result.
    subprocess.run([sys.executable, "-m", module, *arguments], stdout=sys.stderr, check=True)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = console.parser("time_to_accuracy", __doc__)
    parser.add_argument("--raw", type=Path, help="folder of the raw ASL alphabet")
    parser.add_argument("--goal", type=float, default=GOAL, help="accuracy to reach")
    parser.add_argument("--images", type=int, metavar="N", help="number of drawn frames a class, without real ones")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    options = parsed(arguments)
    try:
        document = measure(options.raw or real(), options.goal, options.images, options.overrides)
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(error.cmd[1:4])} failed: its reason is printed above", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    return publish(document, None, failed=document["seconds_to_goal"] is None)


if __name__ == "__main__":
    sys.exit(main())
