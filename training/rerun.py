"""Train a recorded run again, from its own files, and compare all figures of the two.

    python -m training.rerun fingers                 runs/fingers-again, with the configuration of runs/fingers
    python -m training.rerun fingers --name check    runs/check

Needs the prepared data set of the run, unchanged. Compares each epoch, the best one and, if the run was evaluated, its
scores: they are the same on the same kind of machine, with as many cores, the same packages and the same commit. The
output names what differs there. A run with a time limit trains as many epochs as it did, by their number.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from handlers import naming
from handlers.machine import share_cores
from handlers.run_folder import RunFolder
from training import configuration, evaluate
from training.configuration import ConfigurationError, TrainingError, plain, store_folder
from training.console import INTERRUPTED, message_of
from training.data.records import DatasetError
from training.data.store import PreparedDataset
from training.finished_run import FinishedRun, check_data
from training.report.summary import main_scores
from training.run import commit, machine, versions, with_planned_epochs
from training.train import train

SHOWN = 5  # figures that differ


def rerun(name: str, target: str, say: Callable[[str], None] = print) -> list[str]:
    """Train the run `name` again as `target`; return a line for each figure that differs.

    Raises:
        ConfigurationError: there is no such finished run, its time limit cut an epoch, or `target` is a finished run.
        DatasetError: its prepared data set is gone or has changed.
        TrainingError: the loss is not finite.
    """
    source, files = FinishedRun.open(name), RunFolder.of(target)
    if fault := naming.fault_of_run(target):
        raise ConfigurationError(fault)
    if files.training.is_file():
        raise ConfigurationError(f"{files.path} is a finished run: remove it, or give another one with --name")
    record = json.loads(source.files.training.read_text())
    config = settings_of(source, target, record)
    check_data(source.files.model, source.spec, PreparedDataset.open(store_folder(config)))
    for line in changes(record):
        say(f"warning: {line}")
    train(config, say)
    if source.files.metrics.is_file():
        evaluate.run(files.path)
    before, after = figures(source.files), figures(files)
    return [f"{key}: {value} before, {after.get(key)} now" for key, value in before.items() if after.get(key) != value]


def settings_of(source: FinishedRun, target: str, record: Mapping[str, Any]) -> DictConfig:
    """Return the configuration of a run under another name, its time limit replaced by the number of its epochs.

    Raises:
        ConfigurationError: the time limit ended the run within an epoch.
    """
    if record["epochs"] != record["planned_epochs"]:
        raise ConfigurationError(
            f"{source.files.path} ended by its time limit, after {record['epochs']:g} of {record['planned_epochs']:g} "
            "epochs: it cannot be repeated. Train with trainer.max_minutes=null, which can"
        )
    settings = with_planned_epochs(plain(configuration.load(source.files.path)), source.files.path)
    trainer = {**settings["trainer"], "max_minutes": None}
    return OmegaConf.create({**settings, "trainer": trainer, "name": target})


def changes(record: Mapping[str, Any]) -> list[str]:
    """Return a line for each recorded fact of the environment that is another one here."""
    device = record["machine"]["device"]
    now = {**machine(device), **versions(), "commit": commit()}
    then = {**record["machine"], **record["versions"], "commit": record.get("commit")}
    lines = [f"{key} was {value}, and is {now.get(key)}" for key, value in then.items() if now.get(key) != value]
    if (count := record.get("processes", 1)) > 1:
        lines.append(f"{count} processes trained it, and one trains now: figures may differ")
    return lines


def figures(run: RunFolder) -> dict[str, str]:
    """Return each figure of a run by its name: those of each epoch, of the best one, and of the evaluation."""
    values: dict[str, Any] = {}
    if run.epoch_metrics.is_file():
        with open(run.epoch_metrics) as file:
            rows = list(csv.DictReader(file))
        values = {f"{key}, epoch {row['epoch']}": value for row in rows for key, value in row.items()}
    best = json.loads(run.training.read_text())["best"]
    values |= {f"best {key}": value for key, value in best.items()}
    if run.metrics.is_file():
        scores = main_scores(json.loads(run.metrics.read_text()))
        values |= {f"test {key}": score["value"] for key, score in scores}
    return {key: str(value) for key, value in values.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status: 0 if all figures are the same."""
    parser = argparse.ArgumentParser(
        prog="python -m training.rerun", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="the run to train again")
    parser.add_argument("--name", help="of the new run (default: <run>-again)")
    options = parser.parse_args(arguments)
    target = options.name or f"{options.run.replace('/', '-')}-again"
    try:
        differences = rerun(options.run, target, lambda line: print(line, flush=True))
    except (ConfigurationError, DatasetError, TrainingError, OSError) as error:
        print(f"error: {message_of(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    if differences:
        shown = "; ".join(differences[:SHOWN])
        print(f"error: {len(differences)} figures differ from those of {options.run}: {shown}", file=sys.stderr)
        return 1
    print(f"{RunFolder.of(target).path}: all figures are those of {Path('runs') / options.run}")
    return 0


if __name__ == "__main__":
    share_cores()
    sys.exit(main())
