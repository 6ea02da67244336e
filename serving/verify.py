"""Verify an archive: its sha256, its content, and its answers to the golden images.

python -m serving.verify fingers        the newest version
python -m serving.verify fingers 1.0
"""

import argparse
import dataclasses
import hashlib
import json
import sys
import time
import zipfile
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from handlers import golden
from serving.console import table_console
from serving.errors import ServingError
from serving.store import model_store, package, provenance, rehearsal
from serving.store.model_store import Archive, ArchiveError
from serving.store.rehearsal import Rehearsal

REQUIRED = (package.MANIFEST, package.CONFIG, package.HANDLER_FILE, golden.FILE, "handlers/__init__.py")


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, its result and its seconds."""

    name: str
    result: str
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Verified:
    """A verified archive with its sidecar; `rehearsed` is None if it was not rehearsed."""

    archive: Archive
    sidecar: Mapping[str, Any]
    checks: tuple[Check, ...]
    rehearsed: Rehearsal | None


class _Checks:
    def __init__(self) -> None:
        self.passed: list[Check] = []
        self._start_time = time.monotonic()

    def add(self, name: str, result: str) -> None:
        now = time.monotonic()
        self.passed.append(Check(name, result, now - self._start_time))
        self._start_time = now


def verify(archive: Archive, *, rehearse: bool = True) -> Verified:
    """Check an archive's hash, structure, sizes and provenance, and rehearse it if `rehearse`.

    Raises:
        ArchiveError: a check failed; one line with the cause and the command that repairs it.
    """
    checks = _Checks()
    sidecar = _check_file(archive)
    checks.add("hash", f"sha256 {sidecar['sha256'][:16]}..., {sidecar['bytes']:,} bytes, as its sidecar says")
    archive.check()
    with archive.opened() as file:
        total = _check_members(archive, file)
        checks.add("structure", f"{len(file.infolist())} files of {total:,} bytes, every path inside, none missing")
        _check_provenance(archive, file, sidecar)
    commit, data = (str(sidecar.get(key))[:12] for key in ("commit", "dataset_fingerprint"))
    checks.add("provenance", f"sha256 of every file; built at commit {commit} from data {data}")
    rehearsed = None
    if rehearse:
        rehearsed = rehearsal.rehearse(archive)
        result = f"{rehearsed.images} images in {rehearsed.precision}, largest difference {rehearsed.difference:.1e}"
        if not rehearsed.pixels:
            result += "; pixels not compared (exported by an older release)"
        checks.add("golden answers", result)
    return Verified(archive, sidecar, tuple(checks.passed), rehearsed)


def _check_file(archive: Archive) -> dict[str, Any]:
    """Return the sidecar, after checking that it describes this file."""
    if not archive.path.is_file():
        command = f"make archive NAME={archive.name} VERSION={archive.version}"
        raise ArchiveError(f"{archive.path} does not exist: {command} builds it")
    if not archive.sidecar.is_file() and not _is_ours(archive):
        raise ArchiveError(
            f"{archive.path} was not built by make archive and has no sidecar to check it by. make serve serves it"
        )
    if not archive.sidecar.is_file():
        raise ArchiveError(f"{archive.path} has no sidecar: its build was interrupted. Remove it and build it again")
    again = f"Remove {archive.path.name} and {archive.sidecar.name} and build it again"
    sidecar = _read_sidecar(archive, again)
    if (sidecar["name"], sidecar["version"]) != (archive.name, archive.version):
        raise ArchiveError(f"{archive.sidecar} describes {sidecar['name']} {sidecar['version']}. {again}")
    if (size := archive.path.stat().st_size) != sidecar["bytes"]:
        raise ArchiveError(f"{archive.path} has {size} bytes, not the {sidecar['bytes']} that were built. {again}")
    if (digest := provenance.sha256(archive.path)) != sidecar["sha256"]:
        raise ArchiveError(f"{archive.path} is not the file that was built (sha256 {digest}). {again}")
    return sidecar


def _read_sidecar(archive: Archive, again: str) -> dict[str, Any]:
    """Return a sidecar with all its keys; the advice `again` ends the errors."""
    try:
        sidecar = json.loads(archive.sidecar.read_text())
    except ValueError as error:
        raise ArchiveError(f"{archive.sidecar} is damaged ({error}). {again}") from error
    if not isinstance(sidecar, dict) or not {"sha256", "bytes", "name", "version", "members"} <= set(sidecar):
        raise ArchiveError(f"{archive.sidecar} is not complete. {again}")
    return sidecar


def _is_ours(archive: Archive) -> bool:
    """Return whether an archive holds our handler, or cannot be read."""
    try:
        with archive.opened() as file:
            return package.HANDLER_FILE in file.namelist()
    except ArchiveError:
        return True


def _check_members(archive: Archive, file: zipfile.ZipFile) -> int:
    """Return the bytes of all members, after checking that none that a worker needs is missing."""
    names = set(file.namelist())
    model = archive.manifest(file)
    missing = sorted(
        {*REQUIRED, provenance.FILE, model["handler"], model["serializedFile"], model["configFile"]} - names
    )
    if missing:
        raise ArchiveError(f"{archive.path} holds no {missing[0]}: build it again as another version")
    return sum(member.file_size for member in file.infolist())


def _check_provenance(archive: Archive, file: zipfile.ZipFile, sidecar: Mapping[str, Any]) -> None:
    """Check that every member is the packed one, and that archive and sidecar have the same provenance."""
    inside = json.loads(file.read(provenance.FILE))
    if inside != {key: value for key, value in sidecar.items() if key in inside} or "members" not in inside:
        raise ArchiveError(
            f"{archive.path} and its sidecar come from different builds: build it again as another version"
        )
    names = set(file.namelist()) - {provenance.FILE}
    for name in sorted(names | set(inside["members"])):
        if name not in inside["members"]:
            raise ArchiveError(f"{archive.path} holds {name}, which its provenance does not list: build it again")
        if name not in names:
            raise ArchiveError(f"{archive.path} holds no {name}, which its provenance lists: build it again")
        with file.open(name) as member:
            digest = hashlib.file_digest(member, "sha256").hexdigest()  # type: ignore[arg-type]  # it has readinto
            if digest != inside["members"][name]:
                raise ArchiveError(f"{name} in {archive.path} is not the packed file: build it again")


def show(verified: Verified, console: Console) -> None:
    """Print a table of the checks."""
    table = Table(title=f"{verified.archive.path} can be served")
    table.add_column("check")
    table.add_column("seen", overflow="fold")
    table.add_column("s", justify="right")
    for check in verified.checks:
        table.add_row(check.name, check.result, f"{check.seconds:.1f}")
    console.print(table)


def main() -> int:
    """Verify one archive; return 0 if it can be served."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="the model")
    parser.add_argument("version", nargs="?", help="the version (default: the newest)")
    arguments = parser.parse_args()
    try:
        with Console(stderr=True, markup=False, emoji=False).status(
            "Checking the archive and rehearsing it in a worker ..."
        ):
            verified = verify(model_store.find(arguments.name, arguments.version or None))
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(verified, table_console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
