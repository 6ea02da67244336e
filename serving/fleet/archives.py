"""Archives at the address of a fleet, from which nodes take them."""

import json
from pathlib import Path

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
    archive.check()
    if not archive.sidecar.is_file():
        raise ArchiveError(f"{archive.path} has no sidecar: its build was interrupted. Remove it and build it again")
    with reached(url):
        files, path = fsspec.core.url_to_fs(below(url, FOLDER))
        stem = f"{path}/{archive.path.stem}"
        files.makedirs(path, exist_ok=True)
        if not files.exists(f"{stem}.json"):
            files.put_file(str(archive.path), f"{stem}.mar")
            files.put_file(str(archive.sidecar), f"{stem}.json")  # last: with it the archive is complete
        elif _sha256(files.cat_file(f"{stem}.json")) != _sha256(archive.sidecar.read_bytes()):
            raise ArchiveError(
                f"the fleet has another {archive.name} {archive.version}: give this one another version "
                f"(make archive NAME={archive.name} VERSION=...)"
            )
        if signature.path_of(archive).is_file():
            files.put_file(str(signature.path_of(archive)), f"{stem}.sig")


def fetch(name: str, version: str, url: str, store: Path) -> None:
    """Copy an archive and its signature from the fleet into a store, unless that has them.

    Raises:
        ArchiveError: the fleet has none, it differs from its sidecar, or the store has another one.
        AddressError: the address cannot be read.
    """
    archive = Archive(name, version, model_store.path_of(name, version, store))
    with reached(url):
        files, path = fsspec.core.url_to_fs(below(url, FOLDER))
        stem = f"{path}/{archive.path.stem}"
        if not files.exists(f"{stem}.json"):
            if archive.path.is_file():  # the node had it before the fleet
                return
            raise ArchiveError(f"the fleet has no archive of {name} {version}: deploy it again (make deploy FLEET=...)")
        sidecar = files.cat_file(f"{stem}.json")
        if not archive.path.is_file():
            with atomic.replacing(archive.path) as part:
                files.get_file(f"{stem}.mar", str(part))
                if provenance.sha256(part) != _sha256(sidecar):
                    raise ArchiveError(f"{name} {version} at {url} is damaged: remove it there, and deploy it again")
                atomic.write_text(archive.sidecar, sidecar.decode())
        elif provenance.sha256(archive.path) != _sha256(sidecar):
            raise ArchiveError(f"{archive.path} is not the fleet's: remove it here, or deploy another version")
        if files.exists(f"{stem}.sig"):
            atomic.write_text(signature.path_of(archive), files.cat_file(f"{stem}.sig").decode())


def _sha256(sidecar: bytes) -> str:
    """Return the digest of the archive that a sidecar describes."""
    digest: str = json.loads(sidecar)["sha256"]
    return digest
