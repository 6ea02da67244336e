"""The folder of one trained network, `runs/<name>/`, and its files."""

import dataclasses
from pathlib import Path

from handlers.golden import FILE as GOLDEN
from handlers.spec import ARTIFACTS, FAMILIARITY, INT8, REFERENCE

RUNS = Path("runs")  # the folder of all runs, relative to the current directory


class _File:
    """The path of a file, as a read-only property of a `RunFolder`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: "RunFolder", owner: type) -> Path:
        return run.path / self.name


@dataclasses.dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of a run by what they hold; not every run has all of them."""

    path: Path

    config = _File("config.yaml")
    environment = _File("environment.txt")  # Python and all packages, with their versions
    weights = _File("weights.json")  # the origin of its pretrained weights
    pruned = _File("pruned.pt")  # the weights of a pruned network, before its fine-tuning
    # Written by each epoch.
    checkpoints = _File("checkpoints")
    key = _File("checkpoints/key")  # hash of the checkpoints' configuration, data and package versions
    planned_epochs = _File("checkpoints/epochs")  # how many fit into the time of the run
    first_checkpoint = _File("checkpoints/first.ckpt")  # with the fitted head, before fine-tuning
    best_checkpoint = _File("checkpoints/best.ckpt")
    last_checkpoint = _File("checkpoints/last.ckpt")
    epoch_metrics = _File("metrics.csv")
    # Written once, after the last epoch.
    curves = _File("curves.png")
    model = _File(ARTIFACTS["torchscript"])
    compiled_model = _File(ARTIFACTS["pt2"])
    int8_model = _File(INT8)
    golden = _File(GOLDEN)
    familiarity = _File(FAMILIARITY)  # the bank of training images
    reference = _File(REFERENCE)  # for drift
    export = _File("export.json")
    validation = _File("validation.npz")  # the answers to its validation images
    training = _File("train.json")
    choice = _File("choice.json")  # of a fine-tuned network: whether it was deployed in place of the served one
    deployed = _File("deployed.npz")  # the answers of the deployed network to the validation images
    # Written by an evaluation.
    evaluation = _File("evaluation")
    metrics = _File("evaluation/metrics.json")
    scores = _File("evaluation/scores.json")  # the main ones, without intervals
    predictions = _File("evaluation/predictions.npz")
    mistakes = _File("evaluation/mistakes.png")
    robustness = _File("evaluation/robustness.json")
    speed = _File("evaluation/speed.json")
    served = _File("evaluation/served.json")
    report = _File("report.html")
    submission = _File("submission.csv")
    # In the folder that holds the folds of a cross-validation.
    crossvalidation = _File("crossvalidation.json")
    pooled_predictions = _File("predictions.npz")

    @classmethod
    def of(cls, name: str) -> "RunFolder":
        """Return the folder of the run of that name, below the current directory."""
        return cls(RUNS / name)

    def artifact(self, kind: str) -> Path:
        """Return the path of the network in one of the `ARTIFACTS`."""
        return self.path / ARTIFACTS[kind]
