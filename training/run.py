"""The identity of a training run, and the files of its folder."""

import importlib.metadata
import json
import math
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from handlers.atomic import write_text
from handlers.machine import cores
from handlers.run_folder import RunFolder
from training.configuration import fingerprint, plain
from training.data.splits import Split
from training.data.store import PreparedDataset
from training.transfer import pretrained, teacher

if TYPE_CHECKING:
    from training.loop import Outcome

RUN_FORMAT = 4  # raise it where the results of older code must be trained again
IRRELEVANT_TO_WEIGHTS = ("name", "store", "raw", "exclude", "tracking", "cluster")  # settings
# Settings of the trainer that older runs do not have, with the values that mean the same as then.
UNCHANGED = {"class_weights": "none", "layer_decay": 1.0, "freeze_norms": False}
PACKAGES = ("torch", "torchvision", "kornia", "lightning", "timm", "numpy")


def run_key(settings: dict[str, Any], data: PreparedDataset) -> str:
    """Return the key of a finished run, a hash of everything that changes the trained weights."""
    relevant = {name: value for name, value in settings.items() if name not in IRRELEVANT_TO_WEIGHTS}
    relevant["trainer"] = {k: v for k, v in settings["trainer"].items() if v != UNCHANGED.get(k, ...)}
    if not settings["network"].get("pretrained"):
        relevant.pop("transfer", None)
    elif settings.get("transfer", {}).get("stages") == 1:  # a linear head: nothing of the second stage counts
        relevant["trainer"] = {"class_weights": settings["trainer"].get("class_weights")}
        relevant["transfer"] = {"stages": 1}
        relevant.pop("augmentation", None)
    if relevant.pop("teacher", None) is None:  # its digest counts, not its name
        relevant.pop("distillation", None)
    if relevant.get("pruning", {}).get("run") is None:
        relevant.pop("pruning", None)
    else:  # the weights are those that the digest of the run decides
        relevant["network"] = {k: v for k, v in settings["network"].items() if k != "weights"}
    relevant["dataset"] = {
        k: v
        for k, v in settings["dataset"].items()
        if k
        not in ("source", "store", "max_decoded_gb", "max_bytes", "max_pixels", "interpolation")  # in the store's key
    }
    # Transformed copies are added and removed without preparing the data set again.
    copies = [data.transformed_key] if data.transformed_key else []
    return fingerprint([RUN_FORMAT, relevant, data.content_key, versions(), *copies])


def is_finished(run: Path, key: str) -> bool:
    """Return whether this very run is trained and exported."""
    files = RunFolder(run)
    try:
        document = json.loads(files.training.read_text())
    except (FileNotFoundError, ValueError):
        return False
    return bool(document.get("key") == key and files.model.is_file() and files.export.is_file())


def input_statistics(
    settings: Mapping[str, Any], data: PreparedDataset, split: Split
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of the network's input: those of its pretrained weights, or of the training images."""
    if not settings["network"].get("pretrained") or "transfer" not in settings:  # a run of before that setting
        return data.statistics(split.train)
    expected = pretrained.input_of(settings["network"])
    if data.colour == "rgb":
        return expected.mean, expected.std
    # Grey images go through the sum of the first layer's weights over the colours.
    count = len(expected.mean)
    return (sum(expected.mean) / count,), (sum(expected.std) / count,)


def with_planned_epochs(settings: dict[str, Any], run: Path) -> dict[str, Any]:
    """Return the settings with the epochs that were planned for the time of this run, if it has a time limit.

    Where these are no whole number, each epoch sees `trainer.epoch_part` of the training images.
    """
    trainer, plan = settings["trainer"], RunFolder(run).planned_epochs
    if trainer["max_minutes"] is None or not plan.is_file():
        return settings
    planned = float(plan.read_text())
    epochs = math.ceil(planned)
    part = {"epoch_part": planned / epochs} if planned < epochs else {}
    return {**settings, "trainer": {**trainer, "epochs": epochs, **part}}


def network_name(settings: Mapping[str, Any]) -> str:
    """Return the name of the network: its kind, or timm's name for it."""
    network = settings["network"]
    return f"timm {network['model']}" if network["kind"] == "timm" else str(network["kind"])


def versions() -> dict[str, str]:
    """Return the versions of the packages that the numbers depend on."""
    return {package: importlib.metadata.version(package) for package in PACKAGES}


def environment() -> str:
    """Return the version of Python and of each installed package, a line each, as a requirements file has them."""
    packages = {f"{package.name}=={package.version}" for package in importlib.metadata.distributions()}
    return "\n".join([f"# Python {platform.python_version()}", *sorted(packages, key=str.lower)]) + "\n"


def commit() -> str | None:
    """Return the commit of the code, with `+` if tracked files are changed; None without git."""
    folder = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def machine(device: str) -> dict[str, Any]:
    """Return the processor, the number of cores, and the GPU if `device` is "cuda"."""
    import torch

    description: dict[str, Any] = {"processor": _processor(), "cores": cores(), "device": device}
    if device == "cuda":
        description["gpu"] = torch.cuda.get_device_name()
    return description


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def document(settings: Mapping[str, Any], data: PreparedDataset, split: Split, outcome: "Outcome") -> dict[str, Any]:
    """Return the document that a finished run writes to train.json."""
    best = outcome.checkpoints.best or {}
    part = settings["trainer"].get("epoch_part", 1)
    return {
        "fingerprint": data.fingerprint,
        "rerun": f"python -m training.rerun {settings['name']}",
        "seed": settings["seed"],
        "epochs": round((len(outcome.checkpoints.rows) - outcome.checkpoints.cut) * part, 3),
        "planned_epochs": round(settings["trainer"]["epochs"] * part, 3),
        "best": {name: value if math.isfinite(value) else None for name, value in best.items()},
        "weight_average": outcome.weight_average,
        "images": {
            "train": len(split.train),
            "transformed": len(split.transformed),
            "validation": len(split.validation),
        },
        "classes": len(data.classes),
        "network": settings["network"].get("model", settings["network"]["kind"]),
        "pretrained": bool(settings["network"].get("pretrained")),
        "teacher": teacher.record(settings),
        "pruning": settings["pruning"] if settings.get("pruning", {}).get("run") is not None else None,
        "image_size": data.image_size,
        "parameters": sum(weight.numel() for weight in outcome.module.network.parameters()),
        "seconds": round(outcome.seconds, 3),
        "seconds_by_epoch": [round(seconds, 3) for seconds in outcome.checkpoints.seconds],
        "precision": "bf16" if outcome.bf16 else "fp32",
        "machine": machine(outcome.device.type),
        "versions": versions(),
    }


def prepare_folder(run: Path, config: DictConfig, key: str, say: Callable[[str], None]) -> None:
    """Keep the files of this run, so that it resumes, and remove those of a run with another key."""
    files = RunFolder(run)
    if files.key.is_file() and files.key.read_text() == key:
        if files.last_checkpoint.is_file():
            say(f"{run}: resuming after its last whole epoch")
    else:
        if files.key.is_file():
            say(f"{run}: configuration, data or versions changed; starting again")
        _remove_results(files)
        files.checkpoints.mkdir(parents=True)
        files.key.write_text(key)
    files.training.unlink(missing_ok=True)
    resolved = OmegaConf.create(plain(config))
    OmegaConf.save(resolved, files.config)
    write_text(files.environment, environment())


def _remove_results(run: RunFolder) -> None:
    networks = (run.model, run.compiled_model, run.int8_model)
    results = (run.golden, run.familiarity, run.reference, run.export, run.validation)
    for path in (run.weights, run.epoch_metrics, run.curves, run.report, *networks, *results):
        path.unlink(missing_ok=True)
    for folder in (run.checkpoints, run.evaluation):
        shutil.rmtree(folder, ignore_errors=True)
