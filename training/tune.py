"""Search for better settings of training: Optuna tries them on the validation images, and ends hopeless trials early.

    python -m training.tune dataset=petals store=petals --name petals-search --trials 24 --minutes 2
    python -m training.tune dataset=petals store=petals --name petals-search --trials 48    continue the same search
    python -m training.tune ... --processes 2              several processes on one search
    python -m training.tune ... --cluster 10.0.0.1:6379    a process on each core of a Ray cluster (local: its own)
    python -m training.tune ... --space space.yaml         another space than those of training/configs/search

The first trial has the settings of the configuration. A trial is judged by the log-loss of its calibrated answers to
the validation images; test images have no say. A search that was stopped or killed continues when the same command is
given again. Writes runs/<name>/: journal.log, which `optuna-dashboard` opens; search.html with pictures; search.json;
and the run of the best trial. The last line of the output is the command that trains with the best settings.
"""

import argparse
import functools
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from handlers import naming
from handlers.machine import cores, share_cores
from handlers.run_folder import RUNS
from training.cluster import ClusterError, ClusterPool
from training.configuration import ConfigurationError, TrainingError, compose, store_folder
from training.console import INTERRUPTED, message_of
from training.data.records import DatasetError
from training.data.store import PreparedDataset
from training.search.space import Space, overrides

INSTALL = "install it with .venv/bin/uv pip install --require-hashes -r requirements-search.txt"
TRIALS = 24
SEEDS = 10_000  # between two processes of one search


def tune(
    name: str,
    base: Sequence[str],
    trials: int,
    *,
    minutes: float | None = None,
    space: Path | None = None,
    worker: int = 0,
    is_last: bool = False,
) -> list[str]:
    """Search until there are `trials` trials, each of at most `minutes`; return the best overrides.

    `worker` is the number of this process among those of the same search; `is_last` says that no other machine
    works at it any more.

    Raises:
        ConfigurationError: a setting is impossible, Optuna is missing, or the folder holds another search.
        DatasetError: there is no such prepared data set.
    """
    if find_spec("optuna") is None:
        raise ConfigurationError(f"optuna is missing: {INSTALL}")
    if fault := naming.fault_of_run(name):
        raise ConfigurationError(fault)
    from training.search import page, study

    limit = [] if minutes is None else [f"trainer.max_minutes={minutes:g}"]
    base = [*base, *limit]
    config = compose([*base, f"name={name}"])
    data = PreparedDataset.open(store_folder(config))
    searched, folder = Space.read(space) if space else Space.of(config), RUNS / name
    for setting in searched.settings:
        if any(override.lstrip("+").startswith(f"{setting.name}=") for override in base):
            raise ConfigurationError(f"{setting.name} is set and searched: leave it out, or give another --space")
    identity = {"space": searched.document(), "settings": sorted(base), "data set": data.content_key}
    trials_of = study.opened(folder, identity, int(config.seed) + SEEDS * worker)
    study.end_trials_of_killed_processes(trials_of, elsewhere=is_last)
    if not trials_of.get_trials(deepcopy=False):
        trials_of.enqueue_trial(searched.defaults(config))
    study.search(trials_of, folder, searched, base, trials, lambda line: print(line, flush=True))
    best = study.best_of(trials_of)
    if best is None:
        raise ConfigurationError(
            f"none of {trials} trials trained to its end: give them more --minutes, or a smaller rate"
        )
    study.keep_only_best(trials_of, folder)
    settings = overrides(best.params)
    first = trials_of.get_trials(deepcopy=False)[0]
    before = f" (the configuration's own settings: {first.value:.4f})" if first.value is not None else ""
    verdict = f"Best of {trials} trials: trial-{best.number}, log-loss {best.value:.4f} on validation images{before}."
    page.write(trials_of, folder, verdict, command(base, settings))
    print(f"{verdict} All of them: {folder / page.PAGE}")
    return settings


def command(base: Sequence[str], settings: Sequence[str]) -> str:
    """Return the command that trains with the best settings."""
    dataset = [item for item in base if item.startswith("dataset=")]
    others = [item for item in base if item not in dataset and not item.startswith("trainer.max_minutes=")]
    return shlex.join([".venv/bin/python", "-m", "training.train", *dataset, *others, *settings])


def _several(processes: int, arguments: Sequence[str]) -> None:
    """Run the same search in several processes that share the cores, until it has its trials."""
    threads = str(max(1, cores() // processes))
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "training.tune", *arguments, f"--worker={number}"],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        for number in range(1, processes + 1)
    ]
    try:
        for child in children:
            child.wait()
    finally:
        for child in children:
            child.terminate()


def _of_node(search: Callable[..., object], worker: int) -> None:
    search(worker=worker)


def _on_nodes(address: str, settings: Sequence[str], search: Callable[[int], object]) -> None:
    """Run the same search in a process on each core of a cluster, until it has its trials."""
    data = PreparedDataset.open(store_folder(compose(settings)))
    with ClusterPool(address, [data.folder]) as pool:
        for _ in pool.map(search, range(1, pool.size + 1)):
            pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.tune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that all trials share")
    parser.add_argument("--name", required=True, help="folder of the search below runs/")
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"how many in all (default {TRIALS})")
    parser.add_argument("--minutes", type=float, help="longest training of a trial")
    parser.add_argument("--processes", type=int, default=1, help="trials at the same time")
    parser.add_argument("--cluster", help="local, or host:port of a Ray cluster: a trial on each core at the same time")
    parser.add_argument("--space", type=Path, help="YAML file: setting: {low, high, log} or {choices}")
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(arguments)
    try:
        if options.processes > 1:
            own = ["--name", options.name, "--trials", str(options.trials), *options.settings]
            own += ["--minutes", str(options.minutes)] if options.minutes else []
            own += ["--space", str(options.space)] if options.space else []
            _several(options.processes, own)
        search = functools.partial(
            tune, options.name, options.settings, options.trials, minutes=options.minutes, space=options.space
        )
        if options.cluster:
            _on_nodes(options.cluster, options.settings, functools.partial(_of_node, search))
        best = search(worker=options.worker, is_last=bool(options.cluster))
    except (ConfigurationError, DatasetError, TrainingError, ClusterError, OSError) as error:
        print(f"error: {message_of(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    print(command(options.settings, best))
    return 0


if __name__ == "__main__":
    share_cores()
    sys.exit(main())
