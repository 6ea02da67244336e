"""Every real data set, from its raw files to answers over REST, with the figures of the README's main table.

    python -m benchmarks.real RAW_ROOT                 all runs, one after the other
    python -m benchmarks.real RAW_ROOT fingers petals  some

RAW_ROOT has one folder a data set, in the layout of its public source: asl_alphabet, fingers, moths, places365 and
petals. Each run consists of the documented commands: prepare, train, evaluate, archive, serve; then every test image is
sent over REST and the answer compared with the evaluation. Runs named `*-folds` cross-validate: the networks of all
folds are served at once, and each answers the images of its held-out fold. Steps that are up to date are skipped, so
that a stopped command continues.

Writes benchmarks/results/real/<run>.json; `make readme` makes the table of them. The last line is a JSON document.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import console
from benchmarks.result import SERVING, Origin
from handlers.atomic import write_json
from handlers.run_folder import RunFolder
from pipeline import agreement
from pipeline.steps import next_version
from serving import archive, server
from serving.client import Client
from serving.errors import ServingError
from serving.store import model_store
from serving.store.live import Live
from serving.store.model_store import Archive
from training.data.records import DatasetError

RESULTS = Path("benchmarks/results/real")
SCORES = ("top_1", "top_5", "macro_f1", "calibration_error", "calibration_error_unscaled")
TRAINING_FIGURES = ("classes", "network", "image_size", "parameters", "epochs", "precision", "fingerprint")


class RunError(Exception):
    """A step failed; its message is printed above."""


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One row of the table: a data set, and overrides of its configuration."""

    dataset: str
    overrides: tuple[str, ...] = ()
    folds: bool = False


SCRATCH = "network=resnet18d_half"  # without pretrained weights
HEAD = "transfer.stages=1"
RUNS = {
    "fingers": Run("fingers"),
    "asl": Run("asl_alphabet"),
    "asl-blocks": Run("asl_alphabet", ("split.by=group",)),
    "petals": Run("petals"),
    "petals-folds": Run("petals", ("split.folds=5",), folds=True),
    "moths": Run("moths"),
    "moths-folds": Run("moths", ("split.folds=5",), folds=True),
    "moths-lite1-folds": Run("moths", ("network=efficientnet_lite1", HEAD, "split.folds=5"), folds=True),
    "moths-lite2-folds": Run("moths", ("network=efficientnet_lite2", HEAD, "split.folds=5"), folds=True),
    "moths-resnet18-folds": Run("moths", ("network=resnet18", "trainer.epochs=30", "split.folds=5"), folds=True),
    "moths-cnn-folds": Run("moths", ("network=small_cnn", "split.folds=5"), folds=True),
    "places365": Run("places365"),
    "petals-scratch-folds": Run("petals", (SCRATCH, "split.folds=5"), folds=True),
    "moths-scratch-folds": Run("moths", (SCRATCH, "split.folds=5"), folds=True),
    "places365-scratch": Run("places365", (SCRATCH,)),
}


def step(module: str, *arguments: str) -> str:
    """Run one command with its output on this terminal; return its command line.

    Raises:
        RunError: its exit status is not 0.
    """
    command = ["-m", module, *arguments]
    print(f"$ python {' '.join(command)}", flush=True)
    if subprocess.run([sys.executable, *command], check=False).returncode:
        raise RunError(f"{module} failed: its reason is printed above. Fix it and run this command again")
    return f"python {' '.join(command)}"


def carry_out(name: str, run: Run, raw: Path) -> dict[str, Any]:
    """Carry out one run and return its document; accuracies are shares in [0, 1], times in seconds.

    Raises:
        RunError: a step failed.
    """
    # One store for each network: its images have another size.
    network = tuple(override for override in run.overrides if override.startswith("network="))
    store = "-".join([run.dataset, *(override.partition("=")[2] for override in network)])
    common = (f"dataset={run.dataset}", f"store={store}", *run.overrides)
    step("training.data.prepare", f"dataset={run.dataset}", f"raw={raw}", f"name={store}", *network)
    document: dict[str, Any] = {"run": name, "dataset": run.dataset, "overrides": list(run.overrides)}
    files = RunFolder.of(name)
    if run.folds:
        step("training.crossvalidate", *common, f"name={name}")
        pooled = _read(files.crossvalidation)
        first = _read(RunFolder(files.path / "fold-0").training)
        times = [fold["train_seconds"] for fold in pooled["folds"]]
        document |= _figures(first, pooled) | {name: pooled[name] for name in ("folds", "int8")}
        document["train_seconds"] = max(times)
        return document | {"served": _serve([files.path / fold["run"] for fold in pooled["folds"]])}
    step("training.train", *common, f"name={name}")
    step("training.evaluate", f"name={name}")
    training, metrics = _read(files.training), _read(files.metrics)
    document |= _figures(training, metrics) | {"train_seconds": training["seconds"]}
    return document | {"export": _read(files.export), "served": _serve([files.path])}


def _figures(training: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": training["images"] | {"test": metrics["images"]},
        **{name: training[name] for name in TRAINING_FIGURES},
        "pretrained": training.get("pretrained", False),
        **{name: metrics[name] for name in SCORES},
        "parts": {part: scores["top_1"] for part, scores in metrics.get("parts", {}).items()},
        "machine": training["machine"],
        "versions": training["versions"] | {"torchserve": importlib.metadata.version("torchserve")},
        "runs": 1,
    }


def _serve(runs: Sequence[Path]) -> dict[str, Any]:
    """Archive the runs as new versions, serve them all, and return the agreement of the served answers.

    The archives are removed afterwards, so that a later start of the server does not load a network for each fold. If
    a server is already running, the start fails and does not touch it.
    """
    archives: list[Archive] = []
    parts = []
    before = Live.read(Path.cwd())
    with contextlib.ExitStack() as cleanup:
        for run in runs:
            # Folds have the same names in every run: their archives are named after both.
            name = "-".join(run.parts[1:])
            # The precision of the evaluation; other precisions are measured elsewhere. Every answer is compared below.
            precision, version = ["handler.precision=fp32"], next_version(name, model_store.FOLDER)
            archives.append(archive.build(name, version, run=run, overrides=precision, rehearse=False))
            cleanup.callback(_forget, archives[-1], before)
        step("serving.server", "start", *(f"{version.name}={version.version}" for version in archives))
        cleanup.callback(server.stop, root=Path.cwd())
        with Client() as client:
            for run, served in zip(runs, archives, strict=True):
                parts.append(agreement.compare(run, served.name, served.version, client=client))
                write_json(RunFolder(run).served, parts[-1])
    sums = {key: sum(part[key] for part in parts) for key in ("images", "agree", "same_top1", "refused", "correct")}
    return sums | {
        "top1": sums["correct"] / sum(part["labelled"] for part in parts),
        "largest_difference": max(part["largest_difference"] for part in parts),
        "precision": ", ".join(sorted({part["precision"] for part in parts})),
        "tolerance": agreement.TOLERANCE,
        "seconds": sum(part["seconds"] for part in parts),
        "apart": [image for part in parts for image in part["apart"]],
    }


def _forget(served: Archive, before: Live) -> None:
    """Remove an archive, and restore the live versions from `before`; models that other commands added stay live."""

    def change(now: Live) -> Live:
        other_models = {name: model for name, model in now.models.items() if name != served.name}
        return Live({**before.models, **other_models})

    Live.update(Path.cwd(), change)
    served.path.unlink(missing_ok=True)
    served.sidecar.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the runs of the command line."""
    parser = console.parser("real", __doc__)
    parser.add_argument("raw_root", type=Path, help="folder with one raw folder a data set")
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"{', '.join(RUNS)}; default: all")
    options = parser.parse_args(arguments)
    if unknown := set(options.runs) - set(RUNS):
        parser.error(f"no run is called {', '.join(sorted(unknown))}: choose of {', '.join(RUNS)}")
    summary = []
    for name in options.runs or RUNS:
        origin = Origin("real", ["RAW_ROOT", name], code=(*SERVING, "training"))
        try:
            document = carry_out(name, RUNS[name], options.raw_root / RUNS[name].dataset)
        except (RunError, ServingError, DatasetError, OSError) as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            return 1
        document |= origin.run()
        write_json(RESULTS / f"{name}.json", document)
        top = document["top_1"]
        print(f"{name}: test top-1 {top['value']:.2%} ({top['low']:.2%} to {top['high']:.2%})", flush=True)
        summary.append({"run": name, "top_1": top["value"], "train_seconds": document["train_seconds"]})
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
