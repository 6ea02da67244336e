"""The first weights of `make up` after a change of a model's images or classes.

A live network that was fine-tuned knows its classes better than the pretrained weights do: a new head on its features
keeps that knowledge. Images are dealt to training, validation and test by their content. So with unchanged settings,
that network was not trained on images that validate or test the next one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from handlers.atomic import replacing
from handlers.spec import ARTIFACTS
from serving.store import model_store
from serving.store.model_store import Archive
from training.configuration import plain

FOLDER = Path("data/weights")
MODEL = ARTIFACTS["torchscript"]
INPUT = ("image_size", "resize", "crop_fraction", "interpolation", "colour")  # settings of a data set


def overrides(root: Path, live: Archive | None, config: DictConfig, prepared: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the override that names the weights to start from; none for the pretrained ones.

    While the images are the same, the weights are those that the live network started from: it stays up to date.

    Args:
        root: the folder of the project, into which the weights are extracted from their archive.
        live: the archive that is live.
        config: of the training to come.
        prepared: the document of the prepared images.
    """
    if live is None or config.network.pretrained is not True:
        return ()
    provenance = live.provenance()
    old = provenance.get("config") or {}
    if not _is_alike(old, plain(config)) or not set(provenance["classes"]) <= set(prepared["classes"]):
        return ()
    source = live
    if provenance.get("dataset_fingerprint") == prepared["fingerprint"] or old["transfer"]["stages"] != 2:
        before = old["network"]["pretrained"]
        if before is True:
            return ()
        version = Path(before).stem.removeprefix(f"{live.name}-")
        source = Archive(live.name, version, model_store.path_of(live.name, version, root / model_store.FOLDER))
    path = FOLDER / f"{source.name}-{source.version}.pt"
    return (f"network.pretrained={path}",) if _extract(source, root / path) else ()


def _is_alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether two trainings have the same network, input and sides of the images.

    Groups are dealt by their order: another group may move an image to another side.
    """
    if new["split"]["by"] != "image" or old.get("split") != new["split"]:
        return False
    same_input = all(old["dataset"][name] == new["dataset"][name] for name in INPUT)
    networks = [{**config["network"], "pretrained": True} for config in (old, new)]
    return same_input and bool(old["network"]["pretrained"]) and networks[0] == networks[1]


def _extract(archive: Archive, path: Path) -> bool:
    """Write the weights of an archive, unless the file exists; return whether the archive has weights."""
    if path.is_file():
        return True
    if not archive.path.is_file():
        return False
    with archive.opened() as packed:
        if MODEL not in packed.namelist():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_bytes(packed.read(MODEL))
    return True
