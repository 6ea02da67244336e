"""A look at labelled images before training: `make inspect RAW=<folder of class folders> NAME=<name>`.

python -m pipeline.inspect --raw <folder, zip or tar> [--name birds]    class folders
python -m pipeline.inspect --dataset petals [--raw <folder>]            a known data set
python -m pipeline.inspect --name birds                                 one that is prepared

Prepares the images, unless they are, as `make up` and `make data` do; then writes data/inspect/<name>/: index.html,
labels.csv and issues.csv (see `training.inspection`).
"""

import argparse
import sys
from pathlib import Path

from handlers import naming
from handlers.machine import share_cores
from pipeline import unpacking
from pipeline.data import data
from pipeline.steps import StepError, Steps, exclusion, guarded

CLASS_FOLDERS = "class_folders"


def inspect(dataset: str, raw: str, name: str, root: Path, overrides: tuple[str, ...] = ()) -> Steps:
    """Prepare the images of `dataset`, or of the class folders in `raw`, as `name`, and inspect them.

    Without `raw`, a data set that is prepared is taken as it is.

    Raises:
        StepError: a step failed, or the folder does not exist.
    """
    name = name or dataset or unpacking.name_of(Path(raw).resolve())
    dataset = dataset or CLASS_FOLDERS
    if fault := naming.fault_of(name):
        raise StepError(f"{fault}. Add NAME=<name>")
    is_prepared = (root / "data" / "processed" / name / "dataset.json").is_file()
    if raw or not is_prepared:
        if not raw and dataset == CLASS_FOLDERS:
            raise StepError(f"{name} is not prepared: name its images, RAW=<folder of class folders>")
        data(dataset, raw, name, root, overrides)
    run = Steps("inspect", root=root, record=root / "logs" / f"inspect-{name}.json")
    arguments = (f"dataset={dataset}", f"name={name}", *overrides)
    run.run("inspect", "looking for wrong labels, copies and poor images", "training.inspection", *arguments)
    return run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.inspect", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="", help=f"a known data set (default: {CLASS_FOLDERS})")
    parser.add_argument("--raw", default="", help='folder, zip or tar of raw images, or "generated"')
    parser.add_argument("--name", default="", help="name of the prepared data set (default: that of the images)")
    parser.add_argument("--exclude", default="", help="CSV file with a column path: images to leave out")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of training.data.prepare")
    arguments = parser.parse_intermixed_args()
    overrides = (*exclusion(arguments.exclude), *arguments.overrides)
    return guarded(lambda: inspect(arguments.dataset, arguments.raw, arguments.name, Path.cwd(), overrides))


if __name__ == "__main__":
    share_cores()
    sys.exit(main())
