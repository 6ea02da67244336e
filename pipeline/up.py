"""From your own images to a served model in one verb: `make up RAW=<folder of class folders> NAME=<name>`.

python -m pipeline.up RAW NAME [--minutes 10] [overrides]

RAW, or a zip or tar of it, holds one folder of images for each class. Overrides are those of training.train
(`network=small_cnn`, `trainer.epochs=30`); training plans as many of its epochs as fit into `--minutes`. Steps
without changes since the last time are skipped, a changed model becomes the next version. logs/up-<name>.json holds the
times of all steps.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
from itertools import chain
from pathlib import Path
from typing import Any

from handlers import naming
from handlers.run_folder import RUNS, RunFolder
from pipeline import showing, steps, unpacking
from pipeline.comparison import Comparison
from pipeline.steps import StepError, Steps
from serving.archive import read_spec
from serving.host import lock, state
from serving.store import model_store
from serving.store.live import Live

MINUTES = 10.0
FOLDS = 10  # a tenth is held out
ANSWERS_SHOWN = 6


def up(raw: Path, name: str, root: Path, minutes: float = MINUTES, overrides: tuple[str, ...] = ()) -> Steps:
    """Run all steps in `root` for the class folders in `raw`, training for at most `minutes`, and return them.

    Raises:
        StepError and the errors of serving: a step failed.
    """
    model_store.check_name(name)
    run = Steps("up", root=root, record=root / "logs" / f"up-{name}.json")
    with lock.training(root, name, run.console.print):
        _up(run, raw, name, minutes, overrides)
    return run


def _up(run: Steps, raw: Path, name: str, minutes: float, overrides: tuple[str, ...]) -> None:
    root = run.root
    if unpacking.is_archive(raw):
        with run.step("unpack", f"unpacking {raw}, unless it was before"):
            raw = unpacking.unpack(raw, root)
    elif not raw.is_dir():
        raise StepError(
            f"{raw} is not a folder, a zip or a tar. Name one that holds a folder of images for each class: RAW=<path>"
        )
    steps.check_ports(root)  # training takes minutes
    data = ("dataset=class_folders", f"name={name}", f"raw={raw.absolute()}")
    run.run("prepare", f"reading {raw}", "training.data.prepare", *data, *overrides)
    overrides += defaults_for(root / "data" / "processed" / name, overrides)
    says = f"training for at most {minutes:g} min (MINUTES= changes that)"
    run.run("train", says, "training.train", *data, f"trainer.max_minutes={minutes}", *overrides)
    run.run("evaluate", "evaluating on images that it has not seen", "training.evaluate", f"name={name}")
    serve_and_ask(run, name, ANSWERS_SHOWN)


def defaults_for(store: Path, overrides: tuple[str, ...]) -> tuple[str, ...]:
    """Return the override that fits the number of images, but none if `overrides` set it already.

    If no class has enough images to hold out a tenth, there are as many folds as the largest class has images.
    """
    counts = json.loads((store / "dataset.json").read_text(encoding="utf-8"))["counts"]
    classes = [sum(side.get(name, 0) for side in counts.values()) for name in {*chain(*counts.values())}]
    if any(override.startswith("split.folds=") for override in overrides):
        return ()
    return (f"split.folds={min(FOLDS, max(2, max(classes, default=0)))}",)


def serve_and_ask(run: Steps, name: str, count: int) -> None:
    """Build the archive of a run unless it exists, serve it unless it is served, and show `count` answers."""
    files = RunFolder(run.root / RUNS / name)
    with run.step("archive", "building the archive, and rehearsing it as a worker"):
        archive, is_new = steps.build_archive(name, run.root)
        run.console.print(f"{archive.path.name}{'' if is_new else ' is up to date'}")
    live = Live.read(run.root).models.get(name)
    runs = state.running(run.root) is not None
    with run.step("serve", "making it live on the server that runs here" if runs else "starting TorchServe"):
        served, started = steps.serve(archive, run.root)
        run.console.print("every worker is READY" if started else "it is live already", highlight=False)
    with run.step("predict", "asking for the first prediction"):
        answers = showing.ask(served, files.path, read_spec(files.model)["classes"], count, run.root)
    first = run.elapsed
    showing.show(answers, served, run.console)
    metrics = json.loads(files.metrics.read_text(encoding="utf-8"))
    right = sum(answer.predicted == answer.true for answer in answers)
    compared = Comparison.of(run.root, live.version if live else None, archive, metrics)
    results = {"answers": len(answers), "right": right, "top_1": metrics["top_1"]}
    run.write(first_prediction=round(first, 3), **results, compared=compared and dataclasses.asdict(compared))
    run.console.print(f"{right} of {len(answers)} right; {_worth(files, metrics)}", highlight=False)
    for line in compared.lines(run.root) if compared else ():
        run.console.print(line, highlight=False)
    run.console.print(f"First answers after {first:.0f} s, all done after {run.elapsed:.0f} s.", highlight=False)


def _worth(run: RunFolder, metrics: dict[str, Any]) -> str:
    """Return the test score of a run, and whether its training was cut short."""
    score = f"of {metrics['images']:,} test images {metrics['top_1']['value']:.1%}"
    training = json.loads(run.training.read_text(encoding="utf-8"))
    epochs, planned = training["epochs"], training.get("wanted_epochs", training["epochs"])
    return score if epochs >= planned else f"{score}, after {epochs} of {planned} epochs: as many as the time allowed"


def _name_of(raw: Path) -> str:
    """Return the name of a folder or an archive, for the model.

    Raises:
        StepError: no model can have that name.
    """
    name = unpacking.name_of(Path(os.path.realpath(raw)))
    if raw.exists() and (fault := naming.fault_of(name)):
        raise StepError(f"NAME= is missing, and {raw} does not give the model a name: {fault}. Add NAME=<name>")
    return name


def _minutes(text: str) -> float:
    """Return minutes of training.

    Raises:
        StepError: they are no number above 0.
    """
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise StepError(f"MINUTES is {text!r}: give minutes of training as a number above 0, such as {MINUTES:g}")
    return minutes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.up", description=__doc__.splitlines()[0])
    parser.add_argument("raw", type=Path, help="folder that holds a folder of images for each class")
    parser.add_argument("name", help="name of the model (default: the folder's)")
    parser.add_argument("--minutes", default=str(MINUTES), help=f"limit of the training time (default {MINUTES:g})")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of training")
    arguments = parser.parse_intermixed_args()

    def work() -> None:
        name = arguments.name or _name_of(arguments.raw)
        up(arguments.raw, name, Path.cwd(), _minutes(arguments.minutes), tuple(arguments.overrides))

    return steps.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
