"""Remove old archives of a model, but never the live one or its predecessor."""

import contextlib
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from serving.host import lock
from serving.store import model_store, signature
from serving.store.live import Live
from serving.store.model_store import Archive

BUILDING = ".building-"  # begins the folder in which an archive is built
LONGEST_BUILD = 86_400.0  # seconds


def prune(name: str, keep: int, *, root: Path, also: str | None = None) -> list[Archive]:
    """Remove all but the newest `keep` archives of a name from the store of `root`, and return the removed ones.

    In addition, keep the live version, the previous one for a rollback, and the version `also`.

    Raises:
        ArchiveError: model_store/live.json is damaged, so the live version is unknown.
        Held: a deployment runs, which may need any of them.
        ValueError: `keep` is below 1.
    """
    with lock.deploying(root):
        stays = protected(name, root) | ({also} if also else set())
        return remove(name, keep, store=root / model_store.FOLDER, protected=stays)


def remove(name: str, keep: int, *, store: Path, protected: Collection[str]) -> list[Archive]:
    """Remove all but the newest `keep` archives of a name and the `protected` versions; return the removed ones.

    Raises:
        ValueError: `keep` is below 1.
    """
    if keep < 1:
        raise ValueError(f"{keep} archives cannot be kept: keep 1 or more")
    matches = _of(name, store)
    old = [archive for archive in matches[:-keep] if archive.version not in protected]
    for archive in old:
        delete(archive)
    for sidecar in store.glob(f"{name}-*.json"):  # of an interrupted removal
        if sidecar.stem.rpartition("-")[0] == name and not sidecar.with_suffix(".mar").exists():
            sidecar.unlink(missing_ok=True)
    return old


def delete(archive: Archive) -> None:
    """Delete the files of an archive."""
    # In this order: an archive without its sidecar counts as an interrupted build.
    archive.path.unlink(missing_ok=True)
    archive.sidecar.unlink(missing_ok=True)
    signature.path_of(archive).unlink(missing_ok=True)
    archive.bill_of_materials.unlink(missing_ok=True)


def remove_unfinished(store: Path) -> None:
    """Remove the folders that builds left in a store when they were killed, a day ago or more."""
    for folder in store.glob(f"{BUILDING}*"):
        with contextlib.suppress(FileNotFoundError):  # a build beside this one has just ended
            if time.time() - folder.stat().st_mtime > LONGEST_BUILD:
                shutil.rmtree(folder, ignore_errors=True)


def protected(name: str, root: Path) -> set[str]:
    """Return the versions of a name that must stay: the live one and its predecessor.

    If none is kept for a rollback, the predecessor is the next older one of the store.

    Raises:
        ArchiveError: model_store/live.json is damaged.
    """
    live = Live.read(root).models.get(name)
    if live is None:
        return set()
    older = [
        archive.version
        for archive in _of(name, root / model_store.FOLDER)
        if model_store.order(archive.version) < model_store.order(live.version)
    ]
    previous = live.previous or (older[-1] if older else None)
    return {live.version} | ({previous} if previous else set())


def _of(name: str, store: Path) -> list[Archive]:
    return [archive for archive in model_store.archives(store) if archive.name == name]
