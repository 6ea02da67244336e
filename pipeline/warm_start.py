"""The first weights of `make up` after a change of a model's images or classes.

A live network that was fine-tuned knows its classes better than the pretrained weights do: a new head on its features
keeps that knowledge. It is kept with the digests of the images that it was trained on: the next network must not be
judged on these.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from handlers.atomic import replacing, write_json
from handlers.run_folder import RunFolder
from serving.store.model_store import Archive
from training.configuration import plain
from training.data.splits import Rows, SplitSpec
from training.data.store import PreparedDataset

FOLDER = Path("data/weights")
INPUT = ("image_size", "resize", "crop_fraction", "interpolation", "colour")  # settings of a data set
# Largest share of the images for validation and test that the network may have been trained on: where a class grows,
# an image or two change sides.
LARGEST_OVERLAP = 0.01


def keep(root: Path, name: str, version: str, run: RunFolder, config: DictConfig, data: PreparedDataset) -> None:
    """Keep the weights of a version that was fine-tuned, and the digests of the images that it was trained on."""
    weights = _weights(root, name, version)
    weights.parent.mkdir(parents=True, exist_ok=True)
    trained = _digests(data, data.split(SplitSpec.from_config(plain(config)["split"])).train)
    write_json(weights.with_suffix(".json"), {"trained": trained})
    with replacing(weights) as part:
        shutil.copyfile(run.model, part)


def overrides(
    root: Path, live: Archive | None, config: DictConfig, data: PreparedDataset, typed: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the override that names the weights to start from; none for the pretrained ones.

    While the images are the same, that is the start of the live network again, so that its training counts as done.

    Args:
        root: the folder of the project.
        live: the archive that is live.
        config: of the training to come.
        data: the prepared images.
        typed: settings that a person typed, which have the last word.
    """
    if live is None or any(setting.lstrip("+").startswith("network.pretrained=") for setting in typed):
        return ()
    provenance, settings = live.provenance(), plain(config)
    old = provenance.get("config") or {}
    if not _is_alike(old, settings) or not set(provenance["classes"]) <= set(data.classes):
        return ()
    version = live.version
    if provenance.get("dataset_fingerprint") == data.fingerprint or old["transfer"]["stages"] != 2:
        before = old["network"]["pretrained"]
        if before is True:
            return ()
        version = Path(before).stem.removeprefix(f"{live.name}-")
    weights = _weights(root, live.name, version)
    if not weights.is_file() or _overlap(weights, settings, data) > LARGEST_OVERLAP:
        return ()
    return (f"network.pretrained={weights.relative_to(root)}",)


def _weights(root: Path, name: str, version: str) -> Path:
    return root / FOLDER / f"{name}-{version}.pt"


def _is_alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether two trainings have the same network and input."""
    if "network" not in old:
        return False
    same_input = all(old["dataset"][name] == new["dataset"][name] for name in INPUT)
    networks = [{**config["network"], "pretrained": True} for config in (old, new)]
    return same_input and bool(old["network"]["pretrained"]) and networks[0] == networks[1]


def _overlap(weights: Path, settings: Mapping[str, Any], data: PreparedDataset) -> float:
    """Return the share of the images for validation and test that these weights were trained on."""
    trained = set(json.loads(weights.with_suffix(".json").read_text())["trained"])
    split = data.split(SplitSpec.from_config(settings["split"]))
    judging = _digests(data, np.concatenate([split.validation, split.test]))
    return sum(digest in trained for digest in judging) / max(1, len(judging))


def _digests(data: PreparedDataset, rows: Rows) -> Sequence[str]:
    return [digest.hex() for digest in data.digests(rows)]
