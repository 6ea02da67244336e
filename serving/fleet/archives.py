"""Archives at the address of a fleet, from which nodes take them."""

import json
from pathlib import Path

import fsspec

from handlers import atomic
from serving.fleet.shared_document import below, reached
from serving.store import model_store, provenance
from serving.store.model_store import Archive, ArchiveError

FOLDER = "archives"


def push(archive: Archive, url: str) -> None:
    """Copy an archive to the fleet, unless it has it.

    Raises:
        ArchiveError: the fleet has another archive of that version.
        AddressError: the address cannot be written.
    """
    archive.check()
    with reached(url):
        files, path = fsspec.core.url_to_fs(below(url, FOLDER))
        stem = f"{path}/{archive.path.stem}"
        if files.exists(f"{stem}.json"):
            present = json.loads(files.cat_file(f"{stem}.json"))
            if present["sha256"] != json.loads(archive.sidecar.read_text())["sha256"]:
                raise ArchiveError(
                    f"the fleet has another {archive.name} {archive.version}: give this one another version "
                    f"(make archive NAME={archive.name} VERSION=...)"
                )
            return
        files.makedirs(path, exist_ok=True)
        files.put_file(str(archive.path), f"{stem}.mar")
        files.put_file(str(archive.sidecar), f"{stem}.json")  # last: with it the archive is complete


def fetch(name: str, version: str, url: str, store: Path) -> None:
    """Copy an archive from the fleet into a store, unless that has it.

    Raises:
        ArchiveError: the fleet has none, it differs from its sidecar, or the store has another one.
        AddressError: the address cannot be read.
    """
    archive = Archive(name, version, model_store.path_of(name, version, store))
    with reached(url):
        files, path = fsspec.core.url_to_fs(below(url, FOLDER))
        stem = f"{path}/{archive.path.stem}"
        if not files.exists(f"{stem}.json"):
            raise ArchiveError(f"the fleet has no archive of {name} {version}: deploy it again (make deploy FLEET=...)")
        sidecar = files.cat_file(f"{stem}.json")
        if archive.path.is_file():
            if provenance.sha256(archive.path) != json.loads(sidecar)["sha256"]:
                raise ArchiveError(f"{archive.path} is not the fleet's: remove it here, or deploy another version")
            return
        with atomic.replacing(archive.path) as part:
            files.get_file(f"{stem}.mar", str(part))
            if provenance.sha256(part) != json.loads(sidecar)["sha256"]:
                raise ArchiveError(f"{name} {version} at {url} is damaged: remove it there, and deploy it again")
            atomic.write_text(archive.sidecar, sidecar.decode())
