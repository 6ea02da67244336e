"""From your own images to a served model in one verb: `make up RAW=<folder of class folders> NAME=<name>`.

python -m pipeline.up RAW NAME [--minutes 8] [--stages 2] [--exclude CSV] [overrides]

RAW, or a zip or tar of it, holds one folder of images for each class. A linear head on the features of pretrained
weights is served first; then all layers are fine-tuned for at most `--minutes`, and that network is deployed if it is
better. Overrides are those of training.train (`network=small_cnn` starts from nothing, `trainer.epochs=30`). Steps
without changes since the last time are skipped, a changed model becomes the next version. logs/up-<name>.json holds the
times of all steps.
"""

import argparse
import dataclasses
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from handlers import naming
from handlers.atomic import write_json
from handlers.naming import TUNED
from handlers.run_folder import RUNS, RunFolder
from pipeline import showing, steps, unpacking, warm_start
from pipeline.choice import Choice
from pipeline.comparison import Comparison
from pipeline.steps import StepError, Steps
from serving.archive import read_spec
from serving.host import lock, state
from serving.store import fine_tuning, model_store
from serving.store.live import Live
from serving.store.model_store import Archive
from training.configuration import compose, plain
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset

MINUTES = 8.0
LONGEST = 2.0  # times the epochs of the recipe, where MINUTES= gives more than the default
# Minutes of the second stage beside its training, from the learning curve to the deployment: at least, and for each
# validation image. With 1,310 of these it took 2.6 minutes on two cores.
RESERVED, RESERVED_PER_IMAGE = 0.87, 0.0013
FOLDS = 10  # a tenth is held out
ANSWERS_SHOWN = 6


def up(
    raw: Path, name: str, root: Path, minutes: float = MINUTES, overrides: tuple[str, ...] = (), stages: int = 2
) -> Steps:
    """Run all steps in `root` for the class folders in `raw`, training for at most `minutes`, and return them.

    With pretrained weights, `stages` 1 stops when the linear head is served.

    Raises:
        StepError and the errors of serving: a step failed.
    """
    model_store.check_name(name)
    run = Steps("up", root=root, record=root / "logs" / f"up-{name}.json")
    with lock.training(root, name, run.console.print):
        _up(run, raw, name, minutes, overrides, stages)
    return run


def _up(run: Steps, raw: Path, name: str, minutes: float, overrides: tuple[str, ...], stages: int) -> None:
    root = run.root
    if any(override.lstrip("+").startswith("transfer.stages=") for override in overrides):
        raise StepError(
            "transfer.stages is set by STAGES= here: STAGES=1 for a linear head, STAGES=2 to fine-tune it too"
        )
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
    images = PreparedDataset.open(root / "data" / "processed" / name)
    overrides += defaults_for(images.document["counts"], overrides)
    config = compose([*data, *overrides])
    if config.network.get("pretrained"):
        if stages == 1 and config.teacher is not None:
            raise StepError("a linear head has no epochs to learn from a teacher in: STAGES=2, or leave teacher= out")
        start = warm_start.overrides(root, _live_archive(root, name), config, images, overrides)
        overrides += start
        for override in start:
            run.console.print(f"starting from the live fine-tuned network: {override}", highlight=False)
            run.console.print("(ARGS=network.pretrained=true starts from the pretrained weights)", highlight=False)
        _transfer(run, data, name, minutes, overrides, stages)
        return
    says = f"training for at most {minutes:g} min (MINUTES= changes that)"
    run.run("train", says, "training.train", *data, f"trainer.max_minutes={minutes}", *overrides)
    _evaluate(run, name)
    serve_and_ask(run, name, ANSWERS_SHOWN)


def _evaluate(run: Steps, name: str) -> None:
    step = "evaluate fine-tuned" if name.endswith(f"/{TUNED}") else "evaluate"
    run.run(step, "evaluating on images that it has not seen", "training.evaluate", f"name={name}")


def _transfer(
    run: Steps, data: tuple[str, ...], name: str, minutes: float, overrides: tuple[str, ...], stages: int
) -> None:
    """Serve a linear head on pretrained features; then fine-tune all layers, and deploy the result if it is better."""
    says = "fitting a linear head on the features of the frozen network"
    run.run("train", says, "training.train", *first_stage(data, overrides))
    _evaluate(run, name)
    first, tuned = fine_tuning.runs(name, run.root / RUNS)
    files, archive = served_first(_live_archive(run.root, name), first, tuned)
    serve_and_ask(run, name, ANSWERS_SHOWN, files, archive=archive)
    if stages == 1:
        return
    says = f"fine-tuning all layers for at most {minutes:g} min (MINUTES= changes that). Ctrl-C keeps what is served"
    validation = _validation_images(run, data, name, overrides)
    run.run("fine-tune", says, "training.train", *second_stage(data, name, minutes, overrides, validation))
    _evaluate(run, f"{name}/{TUNED}")
    choice = fine_tuning.choice(first, tuned)
    if choice is None:
        choice = _choose(run, name, first, tuned)
    else:
        run.console.print("the fine-tuned network was compared with the served one before", highlight=False)
    if choice["deploys"] and choice["version"] is None:
        version = serve_and_ask(run, name, ANSWERS_SHOWN, tuned, suffix=" fine-tuned")
        shutil.copyfile(tuned.validation, tuned.deployed)
        images = PreparedDataset.open(run.root / "data" / "processed" / name)
        warm_start.keep(run.root, name, version, tuned, compose([*data, *overrides]), images)
        write_json(tuned.choice, {**choice, "version": version})


def _validation_images(run: Steps, data: tuple[str, ...], name: str, overrides: tuple[str, ...]) -> int:
    images = PreparedDataset.open(run.root / "data" / "processed" / name)
    return len(images.split(SplitSpec.from_config(plain(compose([*data, *overrides]))["split"])).validation)


def first_stage(data: tuple[str, ...], overrides: tuple[str, ...]) -> tuple[str, ...]:
    """Return the settings of the linear head, which has no epochs to learn from a teacher in."""
    return (*data, *overrides, "transfer.stages=1", "teacher=null")


def second_stage(
    data: tuple[str, ...], name: str, minutes: float, overrides: tuple[str, ...], validation: int
) -> tuple[str, ...]:
    """Return the settings of fine-tuning; those of `overrides` have the last word.

    `validation` is the number of validation images. With more time than by default, it has up to `LONGEST` times the
    epochs of the recipe.
    """
    epochs = compose([*data, *overrides]).trainer.epochs * min(max(1.0, minutes / MINUTES), LONGEST)
    own = (f"name={name}/{TUNED}", f"store={name}", "transfer.stages=2")
    time = (f"trainer.epochs={round(epochs)}", f"trainer.max_minutes={training_minutes(minutes, validation)}")
    return (*data, *own, *time, *overrides)


def training_minutes(minutes: float, validation: int) -> float:
    """Return the part of the second stage's minutes in which it trains, with `validation` images to judge it by."""
    return max(minutes / 2, minutes - RESERVED - validation * RESERVED_PER_IMAGE)


def served_first(live: Archive | None, first: RunFolder, tuned: RunFolder) -> tuple[RunFolder, Archive | None]:
    """Return the run to serve before fine-tuning, and its archive if that is not built from the run.

    That is the linear head `first`, unless a network that was fine-tuned from it is live, or was when the server ended.
    """
    if live is None:
        return fine_tuning.deployed(first, tuned), None
    descends = fine_tuning.descends(first, tuned)
    if steps.holds(live, first.model) or not descends:
        return first, None
    if steps.holds(live, tuned.model):
        return tuned, None
    return first, live  # it is being fine-tuned again: the live version stays until then


def _choose(run: Steps, name: str, first: RunFolder, tuned: RunFolder) -> dict[str, Any]:
    """Compare the fine-tuned network with the served one, and write whether it is to be deployed."""
    compared = Choice.of(answers_of_live(_live_archive(run.root, name), first, tuned), tuned.validation)
    run.console.print(compared.line(), highlight=False, soft_wrap=True)
    choice = {"keys": fine_tuning.keys(first, tuned), "deploys": compared.deploys, "version": None}
    # Written before it is served: a command that is killed in between continues from here.
    write_json(tuned.choice, {**dataclasses.asdict(compared), **choice})
    return choice


def answers_of_live(live: Archive | None, first: RunFolder, tuned: RunFolder) -> Path:
    """Return the file of the served network's answers to the validation images."""
    is_first = live is None or steps.holds(live, first.model) or not tuned.deployed.is_file()
    return first.validation if is_first else tuned.deployed


def _live_archive(root: Path, name: str) -> Archive | None:
    live = Live.read(root).models.get(name)
    if live is None:
        return None
    path = model_store.path_of(name, live.version, root / model_store.FOLDER)
    return Archive(name, live.version, path) if path.is_file() else None


def defaults_for(counts: Mapping[str, Mapping[str, int]], overrides: tuple[str, ...]) -> tuple[str, ...]:
    """Return the override that fits the number of images, but none if `overrides` set it already.

    If no class has enough images to hold out a tenth, there are as many folds as the largest class has images.
    """
    classes = [sum(side.get(name, 0) for side in counts.values()) for name in {*chain(*counts.values())}]
    if any(override.startswith("split.folds=") for override in overrides):
        return ()
    return (f"split.folds={min(FOLDS, max(2, max(classes, default=0)))}",)


def serve_and_ask(
    run: Steps,
    name: str,
    count: int,
    files: RunFolder | None = None,
    *,
    suffix: str = "",
    archive: Archive | None = None,
) -> str:
    """Build the archive of a run unless it exists, serve it unless it is served, and show `count` answers.

    The run is `runs/<name>` by default, `suffix` that of the names of the steps. Return the version that is
    served: that of `archive`, if it is given.
    """
    files = files or RunFolder(run.root / RUNS / name)
    if archive is None:
        with run.step(f"archive{suffix}", "building the archive, and rehearsing it as a worker"):
            archive, is_new = steps.build_archive(name, run.root, run=files.path)
            run.console.print(f"{archive.path.name}{'' if is_new else ' is up to date'}")
    live = Live.read(run.root).models.get(name)
    runs = state.running(run.root) is not None
    with run.step(f"serve{suffix}", "making it live on the server that runs here" if runs else "starting TorchServe"):
        served, started = steps.serve(archive, run.root)
        run.console.print("every worker is READY" if started else "it is live already", highlight=False)
    with run.step(f"predict{suffix}", "asking for the first prediction"):
        answers = showing.ask(served, files.path, read_spec(files.model)["classes"], count, run.root)
    first = run.facts.setdefault("first_prediction", round(run.elapsed, 3))
    showing.show(answers, served, run.console)
    metrics = json.loads(files.metrics.read_text(encoding="utf-8"))
    right = sum(answer.predicted == answer.true for answer in answers)
    compared = Comparison.of(run.root, live.version if live else None, archive, metrics)
    results = {"answers": len(answers), "right": right, "top_1": metrics["top_1"]}
    run.write(**results, compared=compared and dataclasses.asdict(compared))
    run.console.print(f"{right} of {len(answers)} right; {_worth(files, metrics)}", highlight=False)
    for line in compared.lines(run.root) if compared else ():
        run.console.print(line, highlight=False)
    end = f", all done after {run.elapsed:.0f} s" if suffix else ""  # fine-tuning follows the first answers
    run.console.print(f"First answers after {first:.0f} s{end}.", highlight=False)
    return archive.version


def _worth(run: RunFolder, metrics: dict[str, Any]) -> str:
    """Return the test score of a run, and whether its training was cut short."""
    score = f"of {metrics['images']:,} test images {metrics['top_1']['value']:.1%}"
    training = json.loads(run.training.read_text(encoding="utf-8"))
    epochs, planned = training["epochs"], training.get("wanted_epochs", training["epochs"])
    return (
        score
        if epochs >= planned
        else f"{score}, after {round(epochs, 2):g} of {planned} epochs: as many as the time allowed"
    )


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


def _stages(text: str) -> int:
    """Return the number of stages.

    Raises:
        StepError: it is neither 1 nor 2.
    """
    if text not in ("1", "2"):
        raise StepError(f"STAGES is {text!r}: give 1 for a linear head, or 2 to fine-tune it after that")
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.up", description=__doc__.splitlines()[0])
    parser.add_argument("raw", type=Path, help="folder that holds a folder of images for each class")
    parser.add_argument("name", help="name of the model (default: the folder's)")
    parser.add_argument("--minutes", default=str(MINUTES), help=f"limit of the training time (default {MINUTES:g})")
    parser.add_argument(
        "--stages", default="2", help="1: stop when the linear head is served (default 2: fine-tune it)"
    )
    parser.add_argument("--exclude", default="", help="CSV file with a column path: images to leave out")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of training")
    arguments = parser.parse_intermixed_args()

    def work() -> None:
        name = arguments.name or _name_of(arguments.raw)
        minutes, stages = _minutes(arguments.minutes), _stages(arguments.stages)
        overrides = (*steps.exclusion(arguments.exclude), *arguments.overrides)
        up(arguments.raw, name, Path.cwd(), minutes, overrides, stages)

    return steps.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
