"""Archives at an address: of a fleet, from which nodes take them, or of a container's platform."""

import json
from pathlib import Path
from typing import Any

import fsspec

from handlers import atomic
from serving.fleet.shared_document import below, reached
from serving.store import model_store, provenance, signature
from serving.store.model_store import Archive, ArchiveError

FOLDER = "archives"


def push(archive: Archive, url: str) -> None:
    """Copy an archive and its signature to the fleet, unless it has them.

    Raises:
        ArchiveError: this archive has no sidecar, or the fleet has another one of that version.
        AddressError: the address cannot be written.
    """
    place(archive, below(url, FOLDER))


def place(archive: Archive, url: str) -> None:
    """Copy an archive and its signature into the folder `url`, unless it has them.

    Raises:
        ArchiveError: this archive has no sidecar, or the folder has another one of that version.
        AddressError: the address cannot be written.
    """
    archive.check()
    if not archive.sidecar.is_file():
        raise ArchiveError(f"{archive.path} has no sidecar: its build was interrupted. Remove it and build it again")
    with reached(url):
        files, path = fsspec.core.url_to_fs(url)
        stem = f"{path}/{archive.path.stem}"
        files.makedirs(path, exist_ok=True)
        if not files.exists(f"{stem}.json"):
            files.put_file(str(archive.path), f"{stem}.mar")
            files.put_file(str(archive.sidecar), f"{stem}.json")  # last: with it the archive is complete
        elif _sha256(files.cat_file(f"{stem}.json")) != _sha256(archive.sidecar.read_bytes()):
            raise ArchiveError(
                f"{url} has another {archive.name} {archive.version}: give this one another version "
                f"(make archive NAME={archive.name} VERSION=...)"
            )
        if signature.path_of(archive).is_file():
            files.put_file(str(signature.path_of(archive)), f"{stem}.sig")


def is_complete(stem: str, url: str) -> bool:
    """Return whether the folder `url` has the archive `<stem>.mar`, to its end.

    Raises:
        AddressError: the address cannot be read.
    """
    with reached(url):
        files, path = fsspec.core.url_to_fs(url)
        return bool(files.exists(f"{path}/{stem}.json"))


def fetch(name: str, version: str, url: str, store: Path) -> None:
    """Copy an archive and its signature from the fleet into a store, unless that has them.

    Raises:
        ArchiveError: the fleet has none, it differs from its sidecar, or the store has another one.
        AddressError: the address cannot be read.
    """
    archive = Archive(name, version, model_store.path_of(name, version, store))
    with reached(url):
        files, path = fsspec.core.url_to_fs(below(url, FOLDER))
        if files.exists(f"{path}/{archive.sidecar.name}"):
            _copy(archive, files, path, url)
        elif not archive.path.is_file():  # the node may have had it before the fleet
            raise ArchiveError(f"the fleet has no archive of {name} {version}: deploy it again (make deploy FLEET=...)")


def fetch_newest(url: str, store: Path) -> list[Archive]:
    """Copy the newest archive of each name from the folder `url`, with its signature, into a store; return them.

    Raises:
        ArchiveError: there is none, or one differs from its sidecar or has none.
        AddressError: the address cannot be read.
    """
    with reached(url):
        files, path = fsspec.core.url_to_fs(url)
        files.invalidate_cache(path)
        names = {Path(name).name for name in files.ls(path, detail=False)}
        newest = model_store.newest_of(store / name for name in names if name.endswith(".mar"))
        if not newest:
            raise ArchiveError(
                f"no archive in {url}: copy one there, with the .json beside it (make archive builds both)"
            )
        for archive in newest:
            if archive.sidecar.name not in names:
                raise ArchiveError(f"{url} has no {archive.sidecar.name}: copy it there, its hash is checked")
            _copy(archive, files, path, url)
    return newest


def _copy(archive: Archive, files: Any, path: str, url: str) -> None:
    """Copy an archive from the folder `path` of a file system into its store, which may have it already.

    Raises:
        ArchiveError: it differs from its sidecar, or the store has another one.
    """
    stem = f"{path}/{archive.path.stem}"
    sidecar = files.cat_file(f"{stem}.json")
    if not archive.path.is_file():
        with atomic.replacing(archive.path) as part:
            files.get_file(f"{stem}.mar", str(part))
            if provenance.sha256(part) != _sha256(sidecar):
                raise ArchiveError(
                    f"{archive.name} {archive.version} at {url} is damaged: remove it there, and deploy it again"
                )
            atomic.write_text(archive.sidecar, sidecar.decode())
    elif provenance.sha256(archive.path) != _sha256(sidecar):
        raise ArchiveError(f"{archive.path} is not the fleet's: remove it here, or deploy another version")
    if files.exists(f"{stem}.sig"):
        atomic.write_text(signature.path_of(archive), files.cat_file(f"{stem}.sig").decode())


def _sha256(sidecar: bytes) -> str:
    """Return the digest of the archive that a sidecar describes."""
    digest: str = json.loads(sidecar)["sha256"]
    return digest
