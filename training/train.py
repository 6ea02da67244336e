"""Train a network on a prepared data set, and export its best checkpoint.

    python -m training.train dataset=fingers
    python -m training.train dataset=petals name=petals-50 store=petals network=resnet50 trainer.epochs=60
    WANDB_MODE=offline python -m training.train dataset=moths tracking=wandb
    torchrun --nproc-per-node=2 -m training.train dataset=moths   in two processes, each with half of every batch

Reads data/processed/<store>, which is <name> where no store is given; writes runs/<name>/: config.yaml, metrics.csv,
curves.png, checkpoints/{last,best}.ckpt, model.pt, export.json and, last of all, train.json. A run that was killed
resumes after its last epoch when the same command is given again; one whose configuration or data changed starts again;
a finished one is left as it is.
"""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from handlers.atomic import write_json
from handlers.machine import share_cores
from handlers.run_folder import RunFolder
from handlers.spec import PreprocessSpec
from training.configuration import ConfigurationError, TrainingError, compose, plain, run_folder, store_folder
from training.console import INTERRUPTED, message_of
from training.data import class_counts
from training.data.records import DatasetError
from training.data.splits import Split, SplitSpec
from training.data.store import PreparedDataset
from training.ranks import Ranks
from training.run import commit, document, input_statistics, is_finished, prepare_folder, run_key
from training.transfer import teacher

if TYPE_CHECKING:
    from training.loop import Outcome
    from training.transfer.head import Head


def train(
    config: DictConfig,
    say: Callable[[str], None] = print,
    after_epoch: Callable[[Mapping[str, float]], None] | None = None,
) -> Path:
    """Train, export, and return the folder of the run.

    `after_epoch` gets the row of metrics.csv of each epoch; an exception of it ends the training.

    Raises:
        ConfigurationError: a setting is impossible.
        DatasetError: there is no such prepared data set, or it was made with other settings.
        TrainingError: the loss is not finite.
    """
    ranks, run, start = Ranks.of_environment(), run_folder(config), time.perf_counter()
    if ranks.count > 1:
        from training.precision import choose_device

        ranks.connect(choose_device(config.trainer.device).type)
        say = say if ranks.is_first else lambda line: None
    with ranks.one_first():
        plan = _plan(config, ranks, say)
    if plan is None:
        return run

    from training.loop import fit

    outcome = fit(plan.settings, plan.data, plan.split, plan.preprocess, run, say, plan.head, after_epoch)
    if ranks.is_first:
        exported = _export(plan, outcome, RunFolder(run), say)
        _report(outcome, exported, run, say)
        about = {"key": plan.key, **document(plan.settings, plan.data, plan.split, outcome)}
        about |= {"wanted_epochs": plan.wanted_epochs, "processes": ranks.count, "commit": plan.commit}
        seconds = {"seconds_of_this_start": round(time.perf_counter() - start, 3)}
        write_json(RunFolder(run).training, {**about, **seconds})
    ranks.wait()  # a process that ends early takes its connections, and torchrun's, with it
    return run


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A run before its first epoch; `key` is that of `training.run.run_key`, `commit` that of the code."""

    settings: dict[str, Any]
    data: PreparedDataset
    split: Split
    preprocess: PreprocessSpec
    key: str
    commit: str | None
    wanted_epochs: int
    head: "Head | None"


def _plan(config: DictConfig, ranks: Ranks, say: Callable[[str], None]) -> Plan | None:
    """Begin the run's folder, and fit the head that training starts from; None if the run is up to date."""
    run, data = run_folder(config), PreparedDataset.open(store_folder(config))
    config = teacher.with_digest(config, data)
    settings = plain(config)
    _check(settings, data)
    check_numbers(settings["trainer"])
    if ranks.count > 1 and settings["trainer"]["max_minutes"] is not None:
        raise ConfigurationError(
            f"trainer.max_minutes is set, and {ranks.count} processes would end at different times: give trainer.epochs"
        )
    key, start_commit = run_key(settings, data), commit()
    if is_finished(run, key):
        say(f"{run} is up to date")
        return None
    split = _split(settings, data)
    if warning := teacher.check_test_images(settings, data, split):
        say(warning)
    for line in class_counts.remarks(_counts(data, split)):
        say(line)
    if ranks.is_first:
        prepare_folder(run, config, key, say)

    # Imported here: importing torch takes seconds, which a run that is up to date does not need.
    from training.pace import fit_epochs

    preprocess = data.preprocess(*input_statistics(settings, data, split))
    settings, head = _first_stage(settings, data, split, preprocess, RunFolder(run), ranks, say)
    wanted_epochs = settings["trainer"]["epochs"]
    if wanted_epochs:
        settings = fit_epochs(settings, data, split, preprocess, run, say)
    return Plan(settings, data, split, preprocess, key, start_commit, wanted_epochs, head)


def _export(plan: Plan, outcome: "Outcome", files: RunFolder, say: Callable[[str], None]) -> dict[str, Any]:
    """Write the network of a trained run, and its picture; return the document of the export."""
    from training.export import export
    from training.pictures import learning_curves

    if outcome.checkpoints.rows:
        learning_curves(outcome.checkpoints.rows, files.curves)
    int8 = bool(plan.wanted_epochs)
    say(f"exporting {files.model}{', and its int8 form, for up to a minute' if int8 else ''}")
    network, settings = outcome.module.best_network, plan.settings
    return export(network, settings, plan.data, plan.split, plan.preprocess, files.path, int8=int8)


def _report(outcome: "Outcome", exported: Mapping[str, Any], run: Path, say: Callable[[str], None]) -> None:
    say(exported["temperature"]["says"])
    best, average = outcome.checkpoints.best or {}, outcome.weight_average
    weights = "averaged weights" if average else f"best epoch {best['epoch']:.0f}"
    accuracy = average["accuracy"] if average else best["validation_accuracy"]
    say(
        f"{weights}: validation accuracy {100 * accuracy:.2f} %; "
        f"{RunFolder(run).model} differs from the checkpoint by at most {exported['largest_difference']:.1e}"
    )


def _first_stage(
    settings: dict[str, Any],
    data: PreparedDataset,
    split: Split,
    preprocess: PreprocessSpec,
    files: RunFolder,
    ranks: Ranks,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], "Head | None"]:
    """Return the head that fine-tuning starts from, and the settings: without epochs if the head is all."""
    from training.transfer import stages

    count = stages.stages(settings)
    weights = _weights_of_pruned(settings) if settings["network"].get("shapes") else stages.origin(settings, data)
    if weights is not None and ranks.is_first:
        write_json(files.weights, weights)
    if weights is None or not count or files.last_checkpoint.is_file():  # a resumed run has its head already
        return settings, None
    head = stages.linear_head(settings, weights, data, split, preprocess, say)
    return ({**settings, "trainer": {**settings["trainer"], "epochs": 0}} if count == 1 else settings), head


def _weights_of_pruned(settings: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the origin of the weights of the run that was pruned: their file is not needed again."""
    source = RunFolder.of(settings["pruning"]["run"]).weights
    return dict(json.loads(source.read_text())) if source.is_file() else None


def _check(settings: dict[str, Any], data: PreparedDataset) -> None:
    for name in ("image_size", "colour", "resize", "crop_fraction", "interpolation"):
        configured, stored = settings["dataset"][name], getattr(data, name)
        if configured != stored:
            raise DatasetError(
                f"{data.folder}: prepared with dataset.{name}={stored}, and the configuration says {configured}. "
                f"Prepare it again with dataset.{name}={configured}, or train with dataset.{name}={stored}"
            )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and value >= 0


def _is_limit(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 < value < math.inf)


def _is_size_range(value: Any) -> bool:
    return value is None or (isinstance(value, list) and [type(side) for side in value] == [int, int])


# Setting of the trainer -> whether a value is allowed, and the words that ask for one
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("epochs", "batch_size", "prefetch"), (_is_count, "a whole number of at least 1")),
    **dict.fromkeys(
        ("lr", "momentum", "weight_decay", "warmup", "label_smoothing", "ema"), (_is_number, "a number of at least 0")
    ),
    **dict.fromkeys(("gradient_clip", "max_minutes"), (_is_limit, "a number above 0, or null")),
    "train_size": (_is_size_range, "[start, end] in pixels, or null"),
}


def check_numbers(trainer: Mapping[str, Any]) -> None:
    """Raise a ConfigurationError if a number of the trainer is impossible."""
    for name, (allows, words) in RULES.items():
        if not allows(trainer[name]):
            raise ConfigurationError(f"trainer.{name} is {trainer[name]!r}: write {words}")


def _split(settings: dict[str, Any], data: PreparedDataset) -> Split:
    try:
        return data.split(SplitSpec.from_config(settings["split"]))
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _counts(data: PreparedDataset, split: Split) -> dict[str, int]:
    numbers = np.bincount(data.labels[split.train], minlength=len(data.classes))
    return dict(zip(data.classes, numbers.tolist(), strict=True))


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code."""
    if "-h" in arguments or "--help" in arguments:
        print(__doc__)
        return 0
    try:
        config = compose(arguments)
        if config.cluster is not None:
            raise ConfigurationError("cluster= is a setting of training.data.prepare: make train CLUSTER= trains there")
        train(config, lambda line: print(line, flush=True))
    except (ConfigurationError, DatasetError, TrainingError, OSError) as error:
        print(f"error: {message_of(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    share_cores()
    sys.exit(main(sys.argv[1:]))
