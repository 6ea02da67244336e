"""Train a network on a prepared data set, and export its best checkpoint.

    python -m training.train dataset=fingers
    python -m training.train dataset=petals name=petals-50 store=petals network=resnet50 trainer.epochs=60
    WANDB_MODE=offline python -m training.train dataset=moths tracking=wandb

Reads data/processed/<store>, which is <name> where no store is given; writes runs/<name>/: config.yaml, metrics.csv,
curves.png, checkpoints/{last,best}.ckpt, model.pt, export.json and, last of all, train.json. A run that was killed goes
on from its last epoch when the same command is given again; one whose configuration or data changed starts anew; one
that is finished is left alone.
"""

import importlib.metadata
import json
import math
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from handlers.atomic import write_json
from handlers.formats import ARTIFACTS, INT8
from handlers.machine import cores
from training.configuration import ConfigurationError, compose, fingerprint, plain, run_folder, store_folder
from training.data import class_counts
from training.data.records import DatasetError
from training.data.splits import Split, SplitSpec
from training.data.store import PreparedDataset
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.loop import Outcome

FORMAT = 3  # of what a run leaves behind; raise it where older runs must be trained again
# Settings that change where things are told or kept, not what is trained.
BESIDE = ("name", "store", "raw", "tracking")
COUNTS = ("epochs", "batch_size", "prefetch")  # of the trainer: whole numbers of at least 1
NUMBERS = ("lr", "momentum", "weight_decay", "warmup", "label_smoothing", "ema")  # of at least 0
OPTIONAL = ("gradient_clip", "max_minutes")  # above 0, or null
PACKAGES = ("torch", "torchvision", "kornia", "lightning", "timm", "numpy")


def train(config: DictConfig, say: Callable[[str], None] = print) -> Path:
    """Train, export, and return the folder of the run.

    Raises:
        ConfigurationError: a setting is impossible.
        DatasetError: there is no such prepared data set, or it was made with other settings.
        TrainingError: the loss is not finite.
    """
    run = run_folder(config)
    data = PreparedDataset.open(store_folder(config))
    settings = plain(config)
    _check(settings, data)
    _check_numbers(settings["trainer"])
    key = run_key(settings, data)
    if is_finished(run, key):
        say(f"{run} is up to date")
        return run
    split = _split(settings, data)
    for line in class_counts.remarks(_counts(data, split)):
        say(line)
    _prepare_folder(run, config, key, say)

    # Here and not above: what is up to date is told without waiting seconds for torch.
    from training.curves import draw
    from training.export import export
    from training.loop import fit
    from training.pace import planned

    began = time.perf_counter()
    mean, std = data.statistics(split.train)
    preprocess = data.preprocess(mean, std)
    wanted = settings["trainer"]["epochs"]
    settings = planned(settings, data, split, preprocess, run, say)
    outcome = fit(settings, data, split, preprocess, run, say)
    draw(outcome.journal.rows, run / "curves.png")
    say(f"exporting {run}/model.pt, and its int8 form")
    exported = export(outcome.module, settings, data, split, preprocess, run)
    best = outcome.journal.best or {}
    say(
        f"best epoch {best['epoch']:.0f}: validation accuracy {100 * best['validation_accuracy']:.2f} %; "
        f"{run}/model.pt differs from the checkpoint by at most {exported['largest_difference']:.1e}"
    )
    seconds = {"seconds_of_this_start": round(time.perf_counter() - began, 3)}
    write_json(
        run / "train.json",
        {"key": key, **_document(settings, data, split, outcome), "wanted_epochs": wanted, **seconds},
    )
    return run


def _document(settings: Mapping[str, Any], data: PreparedDataset, split: Split, outcome: "Outcome") -> dict[str, Any]:
    """Return what a finished run says of itself."""
    best = outcome.journal.best or {}
    return {
        "fingerprint": data.fingerprint,
        "seed": settings["seed"],
        "epochs": len(outcome.journal.rows),
        "planned_epochs": settings["trainer"]["epochs"],
        "best": {name: value if math.isfinite(value) else None for name, value in best.items()},
        "images": {
            "train": len(split.train),
            "transformed": len(split.transformed),
            "validation": len(split.validation),
        },
        "classes": len(data.classes),
        "network": settings["network"].get("model", settings["network"]["kind"]),
        "image_size": data.image_size,
        "parameters": sum(weight.numel() for weight in outcome.module.network.parameters()),
        "seconds": round(outcome.seconds, 3),
        "seconds_by_epoch": [round(seconds, 3) for seconds in outcome.journal.seconds],
        "precision": "bf16" if outcome.bf16 else "fp32",
        "machine": machine(outcome.device.type),
        "versions": versions(),
    }


def run_key(settings: dict[str, Any], data: PreparedDataset) -> str:
    """Return what a finished run is known by: all that changes the trained weights."""
    relevant = {name: value for name, value in settings.items() if name not in BESIDE}
    relevant["dataset"] = {
        k: v
        for k, v in settings["dataset"].items()
        if k not in ("source", "store", "max_decoded_gb", "max_bytes", "max_pixels")
    }
    # Copies are made, and removed, without preparing the data set anew.
    copies = [data.transformed_key] if data.transformed_key else []
    return fingerprint([FORMAT, relevant, data.content_key, versions(), *copies])


def is_finished(run: Path, key: str) -> bool:
    """Return whether this very run is trained and exported."""
    try:
        document = json.loads((run / "train.json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    return bool(document.get("key") == key and (run / "model.pt").is_file() and (run / "export.json").is_file())


def network_name(settings: Mapping[str, Any]) -> str:
    """Return what people call the network: its kind, or timm's name for it."""
    network = settings["network"]
    return f"timm {network['model']}" if network["kind"] == "timm" else str(network["kind"])


def versions() -> dict[str, str]:
    """Return the versions of the packages that the numbers depend on."""
    return {package: importlib.metadata.version(package) for package in PACKAGES}


def machine(device: str) -> dict[str, Any]:
    """Return what this machine is: processor, cores, and the GPU where it is used."""
    import torch

    found: dict[str, Any] = {"processor": _processor(), "cores": cores(), "device": device}
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _check(settings: dict[str, Any], data: PreparedDataset) -> None:
    for name in ("image_size", "colour", "resize", "crop_fraction"):
        wanted, stored = settings["dataset"][name], getattr(data, name)
        if wanted != stored:
            raise DatasetError(
                f"{data.folder}: prepared with dataset.{name}={stored}, and the configuration says {wanted}. "
                f"Prepare it again with dataset.{name}={wanted}, or train with dataset.{name}={stored}"
            )


def _check_numbers(trainer: Mapping[str, Any]) -> None:
    for name, value in trainer.items():
        number = type(value) in (int, float)
        if name in COUNTS and (type(value) is not int or value < 1):
            raise ConfigurationError(f"trainer.{name} is {value!r}: write a whole number of at least 1")
        if name in NUMBERS and not (number and value >= 0):
            raise ConfigurationError(f"trainer.{name} is {value!r}: write a number of at least 0")
        if name in OPTIONAL and value is not None and not (number and 0 < value < math.inf):
            raise ConfigurationError(f"trainer.{name} is {value!r}: write a number above 0, or null")
    size = trainer["train_size"]
    if size is not None and not (isinstance(size, list) and [type(side) for side in size] == [int, int]):
        raise ConfigurationError(f"trainer.train_size is {size!r}: write [start, end] in pixels, or null")


def _split(settings: dict[str, Any], data: PreparedDataset) -> Split:
    try:
        return data.split(SplitSpec.from_config(settings["split"]))
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _counts(data: PreparedDataset, split: Split) -> dict[str, int]:
    numbers = np.bincount(data.labels[split.train], minlength=len(data.classes))
    return dict(zip(data.classes, numbers.tolist(), strict=True))


def _prepare_folder(run: Path, config: DictConfig, key: str, say: Callable[[str], None]) -> None:
    """Keep what belongs to this very run, so that it is resumed, and clear away what belongs to another one."""
    mark = run / "checkpoints" / "key"
    if mark.is_file() and mark.read_text() == key:
        if (run / "checkpoints" / "last.ckpt").is_file():
            say(f"{run}: resuming after its last whole epoch")
    else:
        if mark.is_file():
            say(f"{run}: configuration, data or versions changed; starting anew")
        for name in (
            "metrics.csv",
            "curves.png",
            *ARTIFACTS.values(),
            INT8,
            "golden.json",
            "export.json",
        ):
            (run / name).unlink(missing_ok=True)
        for name in ("checkpoints", "evaluation"):
            shutil.rmtree(run / name, ignore_errors=True)
        (run / "checkpoints").mkdir(parents=True)
        mark.write_text(key)
    (run / "train.json").unlink(missing_ok=True)
    resolved = OmegaConf.create(plain(config))
    OmegaConf.save(resolved, run / "config.yaml")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code."""
    if "-h" in arguments or "--help" in arguments:
        print(__doc__)
        return 0
    try:
        train(compose(arguments), lambda line: print(line, flush=True))
    except (ConfigurationError, DatasetError, TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
