"""Generate one of the five data sets.

    python -m synthetic fingers data/raw/fingers
    python -m synthetic moths data/raw/moths --classes 10 --images-per-class 40 --seed 1

A folder generated with the same parameters is not changed; a folder that was not generated is never written to.
"""

import argparse
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from training.data.records import DatasetError

# dataset -> most classes
DATASETS = {"asl_alphabet": 29, "fingers": 12, "moths": 50, "petals": 104, "places365": 365}


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate a data set as the command line says; return the exit status."""
    options = _parser().parse_args(arguments)
    generate: Callable[..., bool] = importlib.import_module(f"synthetic.{options.dataset}").generate
    scale = {
        key: value
        for key in ("seed", "images_per_class", "classes", "size", "workers")
        if (value := getattr(options, key)) is not None
    }
    defaults = {key: parameter.default for key, parameter in inspect.signature(generate).parameters.items()}
    try:
        _check({**defaults, **scale}, DATASETS[options.dataset])
        changed = generate(options.out, **scale)
    except (DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {'generated' if changed else 'unchanged'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m synthetic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=sorted(DATASETS), metavar="DATASET", help=", ".join(sorted(DATASETS)))
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the images; the look of each class is fixed")
    parser.add_argument(
        "--images-per-class",
        type=int,
        metavar="N",
        help="number of training images; the number of test images is in proportion",
    )
    parser.add_argument("--classes", type=int, metavar="N", help="number of classes")
    parser.add_argument("--size", type=int, metavar="PX", help="side of an image")
    parser.add_argument("--workers", type=int, metavar="N", help="number of processes; does not change the files")
    return parser


def _check(scale: dict[str, int | None], limit: int) -> None:
    for key, low, high in (
        ("seed", 0, 2**63),
        ("images_per_class", 1, 99_999),
        ("classes", 1, limit),
        ("size", 32, 1024),
    ):
        value = scale[key]
        if value is None or not low <= value <= high:
            raise DatasetError(f"{key} is {value}. Choose {low} to {high}.")


if __name__ == "__main__":
    sys.exit(main())
