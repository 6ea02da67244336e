"""Every real data set, from its raw files to answers over REST, with the figures of the README's main table.

    python -m benchmarks.real RAW_ROOT                 all runs, one after the other
    python -m benchmarks.real RAW_ROOT fingers petals  some

RAW_ROOT holds one folder a data set, in the layout of its public source: asl_alphabet, fingers, moths, places365 and
petals. Each run is what a person would type: prepare, train, evaluate, archive, serve, and then every test image sent
over REST and compared with what evaluation said. Runs named `*-folds` cross-validate: the networks of all folds are
served at once, and each is asked about the images that it had not seen. Steps that are up to date skip themselves, so a
stopped command goes on where it was.

Writes benchmarks/results/real/<run>.json; `make readme` makes the table of them. The last line is a JSON document.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.result import SERVING, Origin
from handlers.atomic import write_json
from pipeline.steps import next_version
from serving import agreement, archive, model_store, server
from serving.client import Client
from serving.errors import ServingError
from serving.live import Live
from serving.model_store import Archive

RESULTS = Path("benchmarks/results/real")


class RunError(Exception):
    """A step failed; its own message stands above."""


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One row of the table: a data set, and what differs from its configuration."""

    dataset: str
    overrides: tuple[str, ...] = ()
    folds: bool = False


RUNS = {
    "fingers": Run("fingers"),
    "asl": Run("asl_alphabet"),
    "asl-blocks": Run("asl_alphabet", ("split.by=group",)),
    "petals": Run("petals"),
    "petals-folds": Run("petals", ("split.folds=5",), folds=True),
    "moths": Run("moths"),
    "moths-folds": Run("moths", ("split.folds=5",), folds=True),
    "places365": Run("places365"),
}


def step(module: str, *arguments: str) -> str:
    """Run one command with its progress on this screen; return the command as a person would type it.

    Raises:
        RunError: it exits with anything but 0.
    """
    command = ["-m", module, *arguments]
    print(f"$ python {' '.join(command)}", flush=True)
    if subprocess.run([sys.executable, *command], check=False).returncode:
        raise RunError(f"{module} failed: its reason stands above. Mend it and run this command again")
    return f"python {' '.join(command)}"


def carry_out(name: str, run: Run, raw: Path) -> dict[str, Any]:
    """Do one run and return its document; accuracies are shares in [0, 1], times in seconds.

    Raises:
        RunError: a step failed.
    """
    common = (f"dataset={run.dataset}", f"store={run.dataset}", *run.overrides)
    step("training.prepare", f"dataset={run.dataset}", f"raw={raw}", f"name={run.dataset}")
    document: dict[str, Any] = {"run": name, "dataset": run.dataset, "overrides": list(run.overrides)}
    folder = Path("runs") / name
    if run.folds:
        step("training.crossvalidate", *common, f"name={name}")
        pooled = _read(folder / "crossvalidation.json")
        first = _read(folder / "fold-0" / "train.json")
        times = [fold["train_seconds"] for fold in pooled["folds"]]
        document |= _figures(first, pooled) | {"folds": pooled["folds"], "train_seconds": max(times)}
        return document | {"served": _serve([folder / fold["run"] for fold in pooled["folds"]])}
    step("training.train", *common, f"name={name}")
    step("training.evaluate", f"name={name}")
    trained, metrics = _read(folder / "train.json"), _read(folder / "evaluation" / "metrics.json")
    document |= _figures(trained, metrics) | {"train_seconds": trained["seconds"]}
    return document | {"export": _read(folder / "export.json"), "served": _serve([folder])}


def _figures(trained: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": trained["images"] | {"test": metrics["images"]},
        "classes": trained["classes"],
        "network": trained["network"],
        "image_size": trained["image_size"],
        "parameters": trained["parameters"],
        "epochs": trained["epochs"],
        "precision": trained["precision"],
        "fingerprint": trained["fingerprint"],
        "top_1": metrics["top_1"],
        "top_5": metrics["top_5"],
        "macro_f1": metrics["macro_f1"],
        "calibration_error": metrics["calibration_error"],
        "parts": {part: scores["top_1"] for part, scores in metrics.get("parts", {}).items()},
        "machine": trained["machine"],
        "versions": trained["versions"] | {"torchserve": importlib.metadata.version("torchserve")},
        "runs": 1,
    }


def _serve(runs: Sequence[Path]) -> dict[str, Any]:
    """Archive the runs as new versions, serve them together, and return how the served answers compare.

    The archives go when that is known: a plain start of the server is not to find a network for each fold. Where a
    server runs here already, the start fails and leaves it alone.
    """
    built: list[Archive] = []
    parts = []
    before = Live.read(Path.cwd())
    with contextlib.ExitStack() as after:
        for run in runs:
            # The folds of one run are named alike in every other: their archives are named by both.
            name = "-".join(run.parts[1:])
            # As evaluated: what other precisions change is measured elsewhere. Every answer is looked at below.
            precision, version = ["handler.precision=fp32"], next_version(name, model_store.FOLDER)
            built.append(archive.build(name, version, run=run, overrides=precision, rehearse=False))
            after.callback(_forget, built[-1], before)
        step("serving.server", "start", *(f"{each.name}={each.version}" for each in built))
        after.callback(server.stop, root=Path.cwd())
        with Client() as client:
            for run, each in zip(runs, built, strict=True):
                evaluated = agreement.Evaluated.read(run)
                parts.append(agreement.compare(evaluated, each.name, each.version, client=client))
                write_json(run / "evaluation" / "served.json", parts[-1])
    sums = {key: sum(part[key] for part in parts) for key in ("images", "agree", "same_top1", "refused", "correct")}
    return sums | {
        "top1": sums["correct"] / sum(part["labelled"] for part in parts),
        "largest_difference": max(part["largest_difference"] for part in parts),
        "precision": ", ".join(sorted({part["precision"] for part in parts})),
        "tolerance": agreement.TOLERANCE,
        "seconds": sum(part["seconds"] for part in parts),
        "apart": [each for part in parts for each in part["apart"]],
    }


def _forget(served: Archive, before: Live) -> None:
    """Remove an archive, and record as live what was before, beside what others have made live since."""

    def change(now: Live) -> Live:
        return Live({**before.models, **{name: each for name, each in now.models.items() if name != served.name}})

    Live.update(Path.cwd(), change)
    served.path.unlink(missing_ok=True)
    served.sidecar.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the runs that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raw_root", type=Path, help="the folder with one raw folder a data set")
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"of {', '.join(RUNS)}; all where none is named")
    given = parser.parse_args(arguments)
    if unknown := set(given.runs) - set(RUNS):
        parser.error(f"no run is called {', '.join(sorted(unknown))}: choose of {', '.join(RUNS)}")
    done = []
    for name in given.runs or RUNS:
        origin = Origin("real", ["RAW_ROOT", name], code=(*SERVING, "training"))
        try:
            document = carry_out(name, RUNS[name], given.raw_root / RUNS[name].dataset)
        except (RunError, ServingError, OSError) as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            return 1
        document |= origin.run()
        write_json(RESULTS / f"{name}.json", document)
        top = document["top_1"]
        print(f"{name}: test top-1 {top['value']:.2%} ({top['low']:.2%} to {top['high']:.2%})", flush=True)
        done.append({"run": name, "top_1": top["value"], "train_seconds": document["train_seconds"]})
    print(json.dumps(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
