"""A search in a folder: Optuna's journal, the run of the best trial, and the trials of killed processes.

runs/NAME/journal.log   every trial; several processes append to it
runs/NAME/trial-7/      the run of a trial; only the best one stays
"""

import datetime as dt
import functools
import os
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handlers import process
from handlers.run_folder import RunFolder
from training.configuration import ConfigurationError, TrainingError, compose
from training.search.space import Space

if TYPE_CHECKING:
    import optuna

JOURNAL, IDENTITY, PROCESS = "journal.log", "identity", "process"
FIRST_TRIALS = 5  # of which none is pruned
FIRST_EPOCHS = 2  # of a trial, before it can be pruned
BEGINNING = dt.timedelta(seconds=10)  # of a trial, until it has its process
# Of the identity of a study.
OTHER = {"space": "another space", "settings": "other settings", "data set": "another data set"}
Say = Callable[[str], None]


def opened(folder: Path, identity: Mapping[str, Any], seed: int) -> "optuna.Study":
    """Return the study of a folder, a new one if it has none.

    `identity` has what all trials of one study share: data, space and the other settings. Processes of one search have
    different seeds.

    Raises:
        ConfigurationError: the folder holds a study of another identity.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            study_name="search",
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=FIRST_TRIALS, n_warmup_steps=FIRST_EPOCHS),
            load_if_exists=True,
        )
        # A search that continues draws other values than at its start.
        seed += len(study.get_trials(deepcopy=False))
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    earlier = study.user_attrs.get(IDENTITY)
    if earlier is None:
        study.set_user_attr(IDENTITY, dict(identity))
        return study
    for key, value in identity.items():
        if earlier.get(key) != value:
            which = f" ({', '.join(sorted({*earlier[key]} ^ {*value}))})" if key == "settings" else ""
            raise ConfigurationError(
                f"{folder} holds a search with {OTHER[key]}{which}: go on with the earlier one, or delete the folder"
            )
    return study


def end_trials_of_killed_processes(study: "optuna.Study", *, elsewhere: bool = False) -> None:
    """Let the values of a trial whose process has ended be tried again.

    Whether a process of another machine runs is unknown here; `elsewhere` says that none does.
    """
    from optuna.trial import TrialState

    now = dt.datetime.now()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if PROCESS not in trial.user_attrs and trial.datetime_start and abs(now - trial.datetime_start) < BEGINNING:
            continue  # it is written next
        pid, started, *host = trial.user_attrs.get(PROCESS, (0, 0))
        is_here = host in ([], [socket.gethostname()])
        if not process.runs(pid, started) if is_here else elsewhere:
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)


def trials_so_far(study: "optuna.Study") -> int:
    """Return the number of trials that ended with a value, or were pruned."""
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def best_of(study: "optuna.Study") -> "optuna.trial.FrozenTrial | None":
    """Return the best trial, None before any has ended."""
    from optuna.trial import TrialState

    return study.best_trial if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) else None


def search(study: "optuna.Study", folder: Path, space: Space, base: Sequence[str], trials: int, say: Say) -> None:
    """Carry out trials until the study has `trials` of them, with the settings `base` in each."""
    objective = functools.partial(_carry_out, folder=folder, space=space, base=base)
    while trials_so_far(study) < trials:
        started = time.perf_counter()
        study.optimize(objective, n_trials=1)
        last, best = study.get_trials(deepcopy=False)[-1], best_of(study)
        seconds = time.perf_counter() - started
        result = f"log-loss {last.value:.4f}" if last.value is not None and last.state.name == "COMPLETE" else "pruned"
        so_far = f", best {best.value:.4f}" if best is not None else ""
        say(f"{trials_so_far(study)} of {trials} trials: {result}{so_far}, {seconds:.0f} s")


def _carry_out(trial: "optuna.Trial", folder: Path, space: Space, base: Sequence[str]) -> float:
    """Train with the settings of a trial; return the log-loss of its answers to the validation images."""
    trial.set_user_attr(PROCESS, [os.getpid(), process.created(os.getpid()), socket.gethostname()])
    import optuna

    from training.train import train

    name = f"{folder.name}/trial-{trial.number}"
    config = compose([*base, *space.suggest(trial), f"name={name}"])

    def judge(row: Mapping[str, float]) -> None:
        trial.report(1 - row["validation_accuracy"], int(row["epoch"]))
        if trial.should_prune():
            raise optuna.TrialPruned

    files = RunFolder(folder / f"trial-{trial.number}")
    try:
        train(config, lambda line: None, after_epoch=judge)
    except KeyboardInterrupt:  # Optuna lets the trial fail
        trial.study.enqueue_trial(trial.params)
        raise
    except (optuna.TrialPruned, TrainingError) as error:
        shutil.rmtree(files.path, ignore_errors=True)
        raise optuna.TrialPruned from error
    shutil.rmtree(files.checkpoints, ignore_errors=True)
    return log_loss(files.validation)


def log_loss(path: Path) -> float:
    """Return the mean log-loss of the answers to validation images.

    Raises:
        ConfigurationError: there are none.
    """
    answers = np.load(path)
    labels = answers["labels"]
    if not len(labels):
        raise ConfigurationError("the split has no validation images to judge a trial by: set split.validation=0.1")
    probabilities = answers["probabilities"].astype(np.float64)[np.arange(len(labels)), labels]
    return float(-np.log(probabilities.clip(1e-12)).mean())


def keep_only_best(study: "optuna.Study", folder: Path) -> None:
    """Remove the runs of all ended trials but the best one."""
    best = best_of(study)
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished() and (best is None or trial.number != best.number):
            shutil.rmtree(folder / f"trial-{trial.number}", ignore_errors=True)
