"""What does a search for better settings gain, against the configuration's own? Over fresh seeds, on real images.

    python -m benchmarks.search RAW_ROOT [--dataset petals] [--trials 24] [--minutes 2] [--seeds 3]
                                                [key=value ...]

RAW_ROOT has one folder a data set, in the layout of its public source. `make tune` searches on the validation images of
the first of five folds; then the best settings and the configuration's own are trained with seeds that the search did
not use, each for at most `--minutes`, and judged by the test images of that fold. A command that was stopped continues.

Writes benchmarks/results/search.json; the last line is the same JSON document.
"""

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks.harness import console
from benchmarks.real import RunError, step
from benchmarks.result import TRAINING, Origin
from handlers.run_folder import RunFolder
from training import evaluate
from training.configuration import ConfigurationError, TrainingError, compose
from training.data.records import DatasetError
from training.predictions import Predictions
from training.report.documents import document
from training.search import page, study
from training.train import train
from training.tune import tune

RESULT = Path("benchmarks/results/search.json")
FOLD = ("split.test=folds", "split.folds=5", "split.fold=0", "split.seed=0")


def scores(name: str, settings: Sequence[str]) -> dict[str, Any]:
    """Train and evaluate a run; return its scores on the test images.

    Raises:
        ConfigurationError, TrainingError, DatasetError: the run is impossible.
    """
    run = train(compose([*settings, f"name={name}"]))
    evaluate.run(run, console=console.progress())
    path = RunFolder(run).predictions
    answers = Predictions.load(path)
    right, images = int((answers.probabilities.argmax(axis=1) == answers.labels).sum()), len(answers.labels)
    return {"images": images, "right": right, "top_1": right / images, "log_loss": round(study.log_loss(path), 4)}


def difference(rows: Sequence[dict[str, Any]], score: str) -> dict[str, float]:
    """Return how much a score is higher with the best settings: the mean over seeds, Student's interval of 95 %."""
    gains = [row["best"][score] - row["default"][score] for row in rows]
    mean = statistics.mean(gains)
    width = float(stats.t.ppf(0.975, len(gains) - 1)) * statistics.stdev(gains) / len(gains) ** 0.5
    return {"value": mean, "low": mean - width, "high": mean + width}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Search, train with each seed, and return the figures.

    Raises:
        ConfigurationError, TrainingError, DatasetError: a run is impossible.
    """
    dataset, minutes = options.dataset, options.minutes
    base, search = [f"dataset={dataset}", f"store={dataset}", *FOLD, *options.overrides], f"{dataset}-search"
    best = tune(search, base, options.trials, minutes=minutes)
    states = Counter(trial["state"] for trial in document(RunFolder.of(search).path / page.DOCUMENT)["trials"])
    rows = []
    for seed in range(1, options.seeds + 1):
        limit = [*base, f"seed={seed}", f"trainer.max_minutes={minutes:g}"]
        kinds = {"default": limit, "best": [*limit, *best]}
        rows.append({"seed": seed, **{kind: scores(f"{dataset}-{kind}-{seed}", kinds[kind]) for kind in kinds}})
    return {
        "dataset": dataset,
        "trials": dict(states),
        "minutes": minutes,
        "best": best,
        "seeds": rows,
        "gain": difference(rows, "top_1"),
        "log_loss": difference(rows, "log_loss"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = console.parser("search", __doc__)
    parser.add_argument("raw_root", type=Path, help="folder with one raw folder a data set")
    parser.add_argument("--dataset", default="petals", help="default: petals")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--minutes", type=float, default=2.0, help="of a trial, and of a run of the comparison")
    parser.add_argument("--seeds", type=int, default=3, help="of the comparison")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that all runs share")
    options = parser.parse_intermixed_args(arguments)
    if options.seeds < 2:
        parser.error(f"--seeds is {options.seeds}: an interval needs two")
    named = ["RAW_ROOT", "--dataset", options.dataset, "--trials", str(options.trials)]
    named += ["--minutes", f"{options.minutes:g}", "--seeds", str(options.seeds), *options.overrides]
    origin = Origin("search", named, code=TRAINING)
    dataset = options.dataset
    try:
        raw, network = (
            f"raw={options.raw_root / dataset}",
            [item for item in options.overrides if item.startswith("network=")],
        )
        step("training.data.prepare", f"dataset={dataset}", raw, f"store={dataset}", *network)
        result = measure(options)
    except (ConfigurationError, TrainingError, DatasetError, RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return origin.publish(result, RESULT)


if __name__ == "__main__":
    sys.exit(main())
