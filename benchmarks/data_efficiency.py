"""The fewest training images a class, and the smallest network, that still reach a target.

    python -m benchmarks.data_efficiency RAW_ROOT [dataset=fingers] [target=0.999] [images=[5,10,20,40,80,160]]
                                         [widths=[4,8,16,32]] [any setting of training.train]

RAW_ROOT/<dataset> is in the layout of its public source. Trains `network=small_cnn`, its layers scaled so that the
first has as many channels as the width says, on subsets of the training images; each run gets as many steps as the
whole set would get. Validation images select the runs that reach the target; only those are then evaluated on the test
images. From the narrowest network up, each is tried on fewer images than sufficed before, by bisection: this assumes
that more images or wider layers do no harm, and saves most of the grid. The runs are in `runs/<dataset>-fewest/`
(or `runs/<name>/`, with `name=`); a command that was stopped continues.

Writes benchmarks/results/fewest.json, from which `make readme` makes a table; the last line is that document.
"""

import copy
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.console import Console

from benchmarks.harness import console
from benchmarks.real import RunError, step
from benchmarks.result import TRAINING, Origin
from handlers.run_folder import RunFolder
from training import configuration, evaluate
from training.configuration import TrainingError
from training.data.records import DatasetError
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset
from training.train import train

RESULT = Path("benchmarks/results/fewest.json")
DEFAULTS: dict[str, Any] = {"name": "", "target": 0.999, "images": [5, 10, 20, 40, 80, 160], "widths": [4, 8, 16, 32]}
# Validation selects: with a third of the training images in it, 99.9 % is more than no mistake by luck.
SETTINGS = ("network=small_cnn", "split.validation=0.3")
ROUNDING = 1e-6  # of a share in float32


def search(widths: Sequence[int], images: Sequence[int], reaches: Callable[[int, int], bool]) -> list[tuple[int, int]]:
    """Return the (width, images) that reach the target while neither can be less, from the narrowest width up.

    `reaches` is called at most once for a pair, and is assumed to stay true where either number grows.
    """
    widths, images = sorted(widths), sorted(images)
    frontier: list[tuple[int, int]] = []
    high = len(images)  # only fewer images than these are of interest
    for width in widths:
        if high == 0 or not reaches(width, images[high - 1]):
            continue
        low, high = 0, high - 1
        while low < high:
            middle = (low + high) // 2
            if reaches(width, images[middle]):
                high = middle
            else:
                low = middle + 1
        frontier.append((width, images[high]))
    return frontier


def narrowed(config: DictConfig, width: int, images: int, rows: int, classes: int) -> DictConfig:
    """Return the configuration of one run: scaled layers, at most `images` a class, as many steps as `rows` images get.

    Raises:
        ConfigurationError: the network has no layers to scale.
    """
    layers = config.network.get("layers")
    if not layers:
        raise configuration.ConfigurationError("only a network of layers can be scaled: give network=small_cnn")
    scaled = copy.deepcopy(config)
    first = layers[0].channels
    for layer in scaled.network.layers:
        layer.channels = max(1, round(layer.channels * width / first))
    batch = int(config.trainer.batch_size)
    steps = int(config.trainer.epochs) * max(1, rows // batch)
    scaled.trainer.epochs = math.ceil(steps / max(1, min(rows, images * classes) // batch))
    scaled.split.images_per_class = images
    scaled.name = f"{config.name}/w{width}-n{images}"
    return scaled


def run(config: DictConfig, settings: dict[str, Any], progress: Console) -> dict[str, Any]:
    """Search the grid, evaluate the runs on the frontier, and return the document of the result.

    Raises:
        ConfigurationError: a setting is impossible.
        DatasetError: the data set is not prepared.
    """
    dataset = PreparedDataset.open(configuration.store_folder(config))
    rows = dataset.split(SplitSpec.from_config(configuration.plain(config)["split"])).train
    largest = int(np.bincount(dataset.labels[rows]).max())
    images = sorted({min(int(number), largest) for number in (*settings["images"], largest)})
    points: dict[tuple[int, int], dict[str, Any]] = {}

    def say(line: str) -> None:
        progress.print(line, highlight=False, soft_wrap=True)

    def reaches(width: int, number: int) -> bool:
        say(f"width {width}, {number} images a class")
        folder = train(narrowed(config, width, number, len(rows), len(dataset.classes)), say)
        points[width, number] = _point(folder, width, number)
        return bool(points[width, number]["validation_top_1"] >= settings["target"] - ROUNDING)

    frontier = search(settings["widths"], images, reaches)
    for pair in frontier:
        metrics = evaluate.run(configuration.run_folder(config) / points[pair]["run"], console=progress)
        points[pair]["test"] = {"images": metrics["images"], "mistakes": metrics["mistakes"], **metrics["top_1"]}
    return {
        "name": str(config.name),
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "target": settings["target"],
        "chosen": [points[pair] for pair in frontier],
        "tried": [points[pair] for pair in sorted(points)],
    }


def _point(folder: Path, width: int, images: int) -> dict[str, Any]:
    training = json.loads(RunFolder(folder).training.read_text())
    return {
        "run": folder.name,
        "width": width,
        "images_per_class": images,
        "training_images": training["images"]["train"],
        "validation_images": training["images"]["validation"],
        "parameters": training["parameters"],
        "epochs": training["epochs"],
        "seconds": training["seconds"],
        "validation_top_1": training["best"]["validation_accuracy"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the data set, search, and write the result."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or "=" in words[0]:
        print(
            "error: name the folder that holds fingers/: python -m benchmarks.data_efficiency RAW_ROOT", file=sys.stderr
        )
        return 2
    origin = Origin("data_efficiency", ["RAW_ROOT", *words[1:]], code=TRAINING)
    own = [word for word in words[1:] if word.partition("=")[0] in DEFAULTS]
    overrides = [word for word in words[1:] if word not in own]
    name = next((word.partition("=")[2] for word in overrides if word.startswith("dataset=")), "fingers")
    try:
        settings = evaluate.settings([f"name={name}-fewest", *own], DEFAULTS)
        config = configuration.compose(
            [f"dataset={name}", *SETTINGS, f"name={settings['name']}", f"store={name}", *overrides]
        )
        raw = Path(words[0]) / name
        step("training.data.prepare", f"dataset={name}", f"raw={raw}", f"name={name}", SETTINGS[0])
        document = run(config, settings, console.progress())
    except (configuration.ConfigurationError, TrainingError, DatasetError, RunError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return origin.publish(document, RESULT)


if __name__ == "__main__":
    sys.exit(main())
