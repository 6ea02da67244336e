"""How accurate is a classifier from 5, 10, 20 or 50 images of each class, from pretrained weights and from nothing?

    python -m benchmarks.few_images RAW_ROOT [--sets moths petals] [--kinds head fine-tuned scratch]
                                                   [--images 5 10 20 50] [--folds 5]

RAW_ROOT has one folder a data set, in the layout of its public source. For each number, at most that many training
images of a class are drawn; the images of a smaller number are among those of a larger one. Each kind gets the same
ones: the linear head of the first stage, the network fine-tuned from it, and a network that starts from nothing.
Pooled over the first `--folds` of five folds; validation images (a tenth of the rest) come on top. A command that was
stopped continues.

Writes benchmarks/results/few_images.json after each set and kind; the last line is that document.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import console
from benchmarks.real import SCRATCH, RunError, step
from benchmarks.result import TRAINING, Sections
from training import crossvalidate
from training.configuration import ConfigurationError, TrainingError
from training.data.records import DatasetError

RESULT = Path("benchmarks/results/few_images.json")
FOLDS = 5
KINDS = {"head": ("transfer.stages=1",), "fine-tuned": (), "scratch": (SCRATCH,)}


def measure(dataset: str, kind: str, images: Sequence[int], folds: int) -> list[dict[str, Any]]:
    """Return the pooled scores for each number of images a class.

    Raises:
        ConfigurationError, TrainingError, DatasetError: a run is impossible.
    """
    rows = []
    for number in images:
        name = f"name={dataset}-{kind}-{number}"
        drawn = (f"split.folds={FOLDS}", f"split.images_per_class={number}")
        common = (f"dataset={dataset}", f"store={_store(dataset, kind)}", name)
        configs = crossvalidate.folds([*common, *drawn, *KINDS[kind]])[:folds]
        pooled = crossvalidate.run(configs, console=console.progress())
        seconds = [fold["train_seconds"] for fold in pooled["folds"]]
        rows.append(
            {
                "images_per_class": number,
                "test_images": pooled["images"],
                **{score: pooled[score] for score in ("top_1", "macro_f1", "calibration_error")},
                "train_seconds": max(seconds),
            }
        )
    return rows


def _store(dataset: str, kind: str) -> str:
    """Return the name of the prepared data set: networks that start from nothing get smaller images."""
    return f"{dataset}-scratch" if kind == "scratch" else dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the sets and kinds of the command line."""
    parser = console.parser("few_images", __doc__)
    parser.add_argument("raw_root", type=Path, help="folder with one raw folder a data set")
    parser.add_argument("--sets", nargs="+", default=["moths", "petals"], help="default: moths petals")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="default: all")
    parser.add_argument("--images", nargs="+", type=int, default=[5, 10, 20, 50], help="of each class, at most")
    parser.add_argument("--folds", type=int, default=FOLDS, choices=range(1, FOLDS + 1), help="of five (default 5)")
    options = parser.parse_args(arguments)
    named = ["RAW_ROOT", "--sets", *options.sets, "--kinds", *options.kinds, "--folds", str(options.folds)]
    sections = Sections("few_images", RESULT, arguments=named, code=TRAINING)
    try:
        for dataset in options.sets:
            for kind in options.kinds:
                network = [override for override in KINDS[kind] if override == SCRATCH]
                name, raw = f"name={_store(dataset, kind)}", f"raw={options.raw_root / dataset}"
                step("training.data.prepare", f"dataset={dataset}", raw, name, *network)
                rows = measure(dataset, kind, options.images, options.folds)
                sections.write(f"{dataset} {kind}", {"folds": options.folds, "rows": rows})
    except (ConfigurationError, TrainingError, DatasetError, RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return sections.publish(failed=False)


if __name__ == "__main__":
    sys.exit(main())
