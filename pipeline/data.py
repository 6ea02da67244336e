"""Get a data set's raw images and prepare them: `make data DATASET=… [RAW=<folder or archive>] [NAME=] [AUGMENT=n]`.

python -m pipeline.data fingers                     download, then prepare
python -m pipeline.data fingers --raw <folder>      prepare the images of a folder, or of a zip or tar of one
python -m pipeline.data fingers --raw generated     draw images in the same layout: no network, no credentials

`--exclude CSV` leaves out the images in the column `path` of a file, such as `make inspect` writes.
"""

import argparse
import sys
from pathlib import Path

from handlers import naming
from pipeline import unpacking
from pipeline.steps import StepError, Steps, exclusion, guarded
from synthetic.__main__ import DATASETS

GENERATED = "generated"


def data(dataset: str, raw: str, name: str, root: Path, overrides: tuple[str, ...] = ()) -> Steps:
    """Bring the raw images of `dataset` and prepare them as `name`.

    `raw` is a folder, a zip or a tar, "generated", or "" to download.

    Raises:
        StepError: a step failed, or the folder does not exist.
    """
    if fault := naming.fault_of(name):
        raise StepError(fault)
    run = Steps("data", root=root, record=root / "logs" / f"data-{name}.json")
    folder = Path(raw).absolute()
    if raw == GENERATED and dataset not in DATASETS:
        raise StepError(
            f"no images of {dataset} can be drawn: DATASET= one of {', '.join(sorted(DATASETS))}, or give RAW=<folder>"
        )
    if raw == GENERATED:
        folder = Path("data/raw") / f"{dataset}-{GENERATED}"
        run.run("generate", f"drawing images in the layout of {dataset}", "synthetic", dataset, str(folder))
    elif not raw:
        folder = Path("data/raw") / dataset
        run.run("download", f"downloading {dataset}", "training.data.download", dataset, str(folder))
    elif unpacking.is_archive(folder):
        with run.step("unpack", f"unpacking {raw}, unless it was before"):
            folder = unpacking.unpack(folder, root)
    elif not folder.is_dir():
        raise StepError(f"RAW={raw} is not a folder, a zip or a tar. Name one, or RAW={GENERATED} to have images drawn")
    arguments = (f"dataset={dataset}", f"name={name}", f"raw={folder}", *overrides)
    run.run("prepare", f"decoding the images in {raw or folder} once", "training.data.prepare", *arguments)
    return run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.data", description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="fingers, asl_alphabet, moths, places365, petals or class_folders")
    parser.add_argument("--raw", default="", help='folder, zip or tar of raw images, or "generated"; none: download')
    parser.add_argument("--name", default="", help="name of the prepared data set (default: the dataset's)")
    parser.add_argument("--exclude", default="", help="CSV file with a column path: images to leave out")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of training.data.prepare")
    arguments = parser.parse_intermixed_args()
    name, overrides = arguments.name or arguments.dataset, (*exclusion(arguments.exclude), *arguments.overrides)
    return guarded(lambda: data(arguments.dataset, arguments.raw, name, Path.cwd(), overrides))


if __name__ == "__main__":
    sys.exit(main())
