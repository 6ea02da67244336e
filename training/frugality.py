"""Find the fewest training images a class, and the smallest network, that still reach a target.

    python -m training.frugality dataset=fingers name=fingers-small [target=0.999] [images=[5,10,20,40,80,160]]
                                 [widths=[4,8,16,32]] [any setting of training.train]

Trains `network=small_cnn`, its layers scaled so that the first has as many channels as the width says, on subsets of
the training images; each run gets as many steps as the whole set would get. What reaches the target is chosen on the
validation images alone; only then is each chosen run's artifact judged on the test images. More validation images make
that choice surer: `split.validation=0.3`.

From the narrowest network up, each is tried on fewer images than sufficed before, halving what is left: that more
images or wider layers do no harm is taken for granted, which saves most of the grid. The runs stand in `runs/<name>/`,
with `frugality.json` and `frugality.png` beside them; a command that was stopped goes on where it was.
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
from rich.table import Table

from handlers.atomic import write_json
from training import configuration, evaluate
from training.errors import TrainingError
from training.records import DatasetError
from training.splits import SplitSpec
from training.store import PreparedDataset
from training.train import train

DEFAULTS: dict[str, Any] = {
    "name": "",
    "target": 0.999,
    "images": [5, 10, 20, 40, 80, 160],
    "widths": [4, 8, 16, 32],
}
ROUNDING = 1e-6  # of a share in float32


def search(widths: Sequence[int], images: Sequence[int], reaches: Callable[[int, int], bool]) -> list[tuple[int, int]]:
    """Return the (width, images) that reach the target while neither can be less, from the narrowest width up.

    `reaches` is asked at most once for a pair, and is taken to stay true where either number grows.
    """
    widths, images = sorted(widths), sorted(images)
    found: list[tuple[int, int]] = []
    most = len(images)  # only fewer images than these are of interest
    for width in widths:
        if most == 0 or not reaches(width, images[most - 1]):
            continue
        low, most = 0, most - 1
        while low < most:
            middle = (low + most) // 2
            if reaches(width, images[middle]):
                most = middle
            else:
                low = middle + 1
        found.append((width, images[most]))
    return found


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


def run(config: DictConfig, given: dict[str, Any], *, console: Console | None = None) -> dict[str, Any]:
    """Search the grid, judge what was chosen, and return what `frugality.json` then holds.

    Raises:
        ConfigurationError: a setting is impossible.
        DatasetError: the data set is not prepared.
    """
    console = console or Console(stderr=True, markup=False, emoji=False)
    dataset = PreparedDataset.open(configuration.store_folder(config))
    rows = dataset.split(SplitSpec.from_config(configuration.plain(config)["split"])).train
    largest = int(np.bincount(dataset.labels[rows]).max())
    images = sorted({min(int(number), largest) for number in (*given["images"], largest)})
    points: dict[tuple[int, int], dict[str, Any]] = {}

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    def reaches(width: int, number: int) -> bool:
        say(f"width {width}, {number} images a class")
        folder = train(narrowed(config, width, number, len(rows), len(dataset.classes)), say)
        points[width, number] = _point(folder, width, number)
        return bool(points[width, number]["validation_top_1"] >= given["target"] - ROUNDING)

    chosen = search(given["widths"], images, reaches)
    for pair in chosen:
        metrics = evaluate.run(configuration.run_folder(config) / points[pair]["run"], console=console)
        points[pair]["test"] = {"images": metrics["images"], "mistakes": metrics["mistakes"], **metrics["top_1"]}
    document = {
        "name": str(config.name),
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "target": given["target"],
        "chosen": [points[pair] for pair in chosen],
        "tried": [points[pair] for pair in sorted(points)],
    }
    draw(document, configuration.run_folder(config) / "frugality.png")
    write_json(configuration.run_folder(config) / "frugality.json", document)
    return document


def _point(folder: Path, width: int, images: int) -> dict[str, Any]:
    trained = json.loads((folder / "train.json").read_text())
    return {
        "run": folder.name,
        "width": width,
        "images_per_class": images,
        "training_images": trained["images"]["train"],
        "validation_images": trained["images"]["validation"],
        "parameters": trained["parameters"],
        "epochs": trained["epochs"],
        "seconds": trained["seconds"],
        "validation_top_1": trained["best"]["validation_accuracy"],
    }


def draw(document: dict[str, Any], path: Path) -> None:
    """Draw what was tried, by images a class and parameters, and mark what reaches the target with its test top-1."""
    from matplotlib.figure import Figure

    from training.pictures import DIM, RIGHT, WRONG, save

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    target = document["target"]
    for reached, colour, marker in ((True, RIGHT, "o"), (False, WRONG, "x")):
        some = [point for point in document["tried"] if (point["validation_top_1"] >= target - ROUNDING) == reached]
        label = f"validation top 1 {'≥' if reached else '<'} {target:.2%}"
        x, y = [point["images_per_class"] for point in some], [point["parameters"] for point in some]
        axes.plot(x, y, linestyle="", color=colour, marker=marker, label=label)
    chosen = document["chosen"]
    x, y = [point["images_per_class"] for point in chosen], [point["parameters"] for point in chosen]
    axes.plot(x, y, color=DIM, linewidth=1, linestyle="--", zorder=0, label="fewest that reach it, with test top 1")
    for point in chosen:
        place = (point["images_per_class"], point["parameters"])
        axes.annotate(f"{point['test']['value']:.2%}", place, xytext=(6, 6), textcoords="offset points", fontsize=9)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.15)
    axes.set_xlabel("training images a class")
    axes.set_ylabel("parameters")
    axes.set_title(document["name"])
    axes.legend(fontsize=8)
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Search with the settings of the command line."""
    try:
        given_arguments = sys.argv[1:] if arguments is None else arguments
        own = [argument for argument in given_arguments if argument.partition("=")[0] in DEFAULTS]
        rest = [argument for argument in given_arguments if argument not in own]
        given = evaluate.settings(own, DEFAULTS)
        network = [] if any(argument.startswith("network=") for argument in rest) else ["network=small_cnn"]
        config = configuration.compose([*network, *rest, f"name={given['name']}"])
        if not any(argument.startswith("store=") for argument in rest):
            config.store = config.dataset.name
        document = run(config, given)
    except (configuration.ConfigurationError, DatasetError, TrainingError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = Table("images a class", "parameters", "validation top 1", "test top 1", title=f"{document['name']}: fewest")
    for point in document["chosen"]:
        test = point["test"]
        table.add_row(
            str(point["images_per_class"]),
            f"{point['parameters']:,}",
            f"{point['validation_top_1']:.4f}",
            f"{test['value']:.4f} ({test['low']:.4f} to {test['high']:.4f})",
        )
    Console(markup=False, emoji=False).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
