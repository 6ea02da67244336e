"""The archives in a model store: `<name>-<version>.mar`, each with its sidecar `<name>-<version>.json`."""

import contextlib
import dataclasses
import json
import re
import shlex
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from handlers import golden, naming
from handlers.golden import Golden, GoldenError
from handlers.images.limits import DEFAULT_LIMITS, Limits
from handlers.naming import NAME
from handlers.settings import Settings
from serving.errors import ServingError
from serving.store import members

FOLDER = Path("model_store")

# A version holds no "-": the last one in a file name is between name and version.
VERSION = re.compile(r"[0-9]+(?:\.[0-9A-Za-z]+)*")

LARGEST_SPEC = 2**24  # bytes; a thousand classes take 30,000

UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, yaml.YAMLError, GoldenError)


class ArchiveError(ServingError):
    """An archive cannot be built, found or read; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Archive:
    """One archive of a model store."""

    name: str
    version: str
    path: Path

    @property
    def sidecar(self) -> Path:
        """Return the JSON document beside the archive."""
        return self.path.with_suffix(".json")

    @property
    def bill_of_materials(self) -> Path:
        """Return the path of its bill of materials, which `pipeline.model_bom` writes."""
        return self.path.with_suffix(".cdx")

    @contextlib.contextmanager
    def opened(self) -> Iterator[zipfile.ZipFile]:
        """Yield the zip after checking its members; errors in the content become ArchiveErrors.

        Raises:
            ArchiveError: the file is not an archive of ours.
        """
        try:
            with zipfile.ZipFile(self.path) as file:
                members.check(file, self.path)
                yield file
        except (*UNREADABLE, KeyError, ValueError, TypeError) as error:
            raise ArchiveError(
                f"{self.path} is not a complete archive ({error}): remove it and build it again"
            ) from error

    @staticmethod
    def manifest(file: zipfile.ZipFile) -> dict[str, Any]:
        """Return the model's entry in an opened archive's manifest."""
        model: dict[str, Any] = json.loads(file.read("MAR-INF/MANIFEST.json"))["model"]
        return model

    def model_config(self) -> dict[str, Any]:
        """Return its model-config.yaml.

        Raises:
            ArchiveError: the file is not an archive of ours.
        """
        with self.opened() as file:
            document = yaml.safe_load(file.read("model-config.yaml"))
        if not isinstance(document, dict):
            raise ArchiveError(f"{self.path} has an empty model-config.yaml: remove it and build it again")
        return document

    def spec(self) -> dict[str, Any]:
        """Return the spec.json of the artifact inside: classes, preprocessing, provenance.

        Raises:
            ArchiveError: the file is not an archive of ours.
        """
        with (
            self.opened() as file,
            file.open(self.manifest(file)["serializedFile"]) as inner,
            zipfile.ZipFile(inner) as artifact,
        ):
            return spec_inside(artifact)

    def provenance(self) -> dict[str, Any]:
        """Return its sidecar; an empty document if it is missing or damaged."""
        try:
            document = json.loads(self.sidecar.read_text())
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def golden(self) -> list[Golden]:
        """Return its golden images that are within its own limits; none in an archive without them.

        Raises:
            ArchiveError: the file is not an archive of ours.
        """
        with self.opened() as file, tempfile.TemporaryDirectory(prefix="sightline-") as folder:
            if golden.FILE not in file.namelist():
                return []
            images = golden.read(Path(file.extract(golden.FILE, folder)))
        limits = limits_of(self.model_config())
        return [image for image in images if image.within(limits)]

    @contextlib.contextmanager
    def unpacked(self) -> Iterator[Path]:
        """Yield the artifact in a temporary folder, beside all other files of the archive.

        Raises:
            ArchiveError: the file is not an archive of ours.
        """
        with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
            with self.opened() as file:
                name = self.manifest(file)["serializedFile"]
                file.getinfo(name)  # a path elsewhere is none of its members
                file.extractall(folder)
            yield Path(folder) / name

    def check(self) -> None:
        """Check that the archive is complete and its manifest agrees with its file name.

        TorchServe skips archives that it cannot read and reports itself healthy, so check before it starts.

        Raises:
            ArchiveError: the archive is damaged or renamed.
        """
        with self.opened() as file:
            model = self.manifest(file)
            matches = (model["modelName"], model["modelVersion"])
            weights = model.get("serializedFile")  # a handler may do without
            if weights is not None and weights not in file.namelist():
                raise ArchiveError(f"{self.path} holds no {weights}: remove it and build it again")
        if matches != (self.name, self.version):
            raise ArchiveError(
                f"{self.path} holds {matches[0]} {matches[1]}: a renamed archive cannot be served, build it again"
            )


def limits_of(config: Mapping[str, Any]) -> Limits:
    """Return a model-config.yaml's limits for one image; the defaults if a worker refuses that file."""
    with contextlib.suppress(ValueError):
        return Settings.read(config.get("handler")).limits
    return DEFAULT_LIMITS


def spec_inside(artifact: zipfile.ZipFile) -> dict[str, Any]:
    """Return the spec.json of an artifact, without importing torch: the file is a zip.

    Raises:
        ValueError: there is none, or one of more than `LARGEST_SPEC` bytes.
    """
    (entry,) = [entry for entry in artifact.infolist() if entry.filename.endswith("extra/spec.json")]
    if entry.file_size > LARGEST_SPEC:
        raise ValueError(f"its spec.json has {entry.file_size} bytes, at most {LARGEST_SPEC} are read")
    document: dict[str, Any] = json.loads(artifact.read(entry))
    return document


def check_name(name: str) -> None:
    """Refuse a model name that TorchServe's URLs or a file name could not hold."""
    if fault := naming.fault_of(name):
        raise ArchiveError(fault)


def check_version(version: str) -> None:
    """Refuse a version that cannot be separated from a name, or sorted."""
    if not VERSION.fullmatch(version):
        raise ArchiveError(f"{version!r} cannot be a version: use numbers and points, such as 1.0 or 2.3.1")


def path_of(name: str, version: str, store: Path = FOLDER) -> Path:
    """Return the path of the archive of that name and version."""
    return store / f"{name}-{version}.mar"


def order(version: str) -> list[tuple[int, int, str]]:
    """Return the sort key of a version: 2.0 before 10.0, 1.0rc1 after 1.0."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|[A-Za-z]+", version)]


def archives(store: Path = FOLDER) -> list[Archive]:
    """Return all archives of the store, by name and then from the oldest version to the newest."""
    return _archives_of(store.glob("*.mar"))


def _archives_of(paths: Iterable[Path]) -> list[Archive]:
    matches = []
    for path in paths:
        name, _, version = path.stem.rpartition("-")
        if NAME.fullmatch(name) and VERSION.fullmatch(version):
            matches.append(Archive(name, version, path))
    return sorted(matches, key=lambda archive: (archive.name, order(archive.version)))


def misnamed(store: Path = FOLDER) -> list[str]:
    """Return a line for each archive that is not served because of its name, with the remedy."""
    lines = []
    for path in sorted(store.glob("*.mar")):
        name, _, version = path.stem.rpartition("-")
        if path.is_file() and not (NAME.fullmatch(name) and VERSION.fullmatch(version)):
            lines.append(f"{path.name} is not served, since {_remedy_of_name(path)}")
    return lines


def _remedy_of_name(path: Path) -> str:
    """Return why an archive cannot be served under its file name, and what to do."""
    try:
        with zipfile.ZipFile(path) as file:
            model = Archive.manifest(file)
        name, version = str(model["modelName"]), str(model["modelVersion"])
    except (*UNREADABLE, KeyError, ValueError, TypeError):
        return "it is not a complete archive: remove it"
    try:
        check_name(name)
        check_version(version)
    except ArchiveError as error:
        return f"{error}. Build it again"
    return f"its name has no version: {shlex.join(['mv', '-n', str(path), str(path_of(name, version, path.parent))])}"


def newest(store: Path = FOLDER) -> list[Archive]:
    """Return the newest archive of every name."""
    return newest_of(store.glob("*.mar"))


def newest_of(paths: Iterable[Path]) -> list[Archive]:
    """Return the newest archive of every name among the paths of archives, which need not exist."""
    return list({archive.name: archive for archive in _archives_of(paths)}.values())


def find(name: str, version: str | None = None, store: Path = FOLDER) -> Archive:
    """Return the archive of that version, or the newest of that name.

    Raises:
        ArchiveError: there is none.
    """
    check_name(name)
    matches = [archive for archive in archives(store) if archive.name == name]
    if version is not None:
        check_version(version)
        matches = [archive for archive in matches if archive.version == version]
    if not matches:
        archive_name = name if version is None else f"{name} {version}"
        raise ArchiveError(
            f"no archive of {archive_name} in {store}/{_available(archives(store))}: correct the name, or build it "
            f"(make archive NAME={name} VERSION={version or '1.0'})"
        )
    return matches[-1]


def select(requests: Iterable[str], store: Path = FOLDER) -> list[Archive]:
    """Return the archives that `NAME` or `NAME=VERSION` ask for; the newest of every name without any request.

    Raises:
        ArchiveError: one is missing or named twice, or the store is empty.
    """
    matches = []
    for text in requests:
        name, _, version = text.partition("=")
        matches.append(find(name, version or None, store))
    names = [archive.name for archive in matches]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise ArchiveError(f"{', '.join(duplicates)}: named twice. Name each model once")
    if not matches:
        matches = newest(store)
    if not matches:
        raise ArchiveError(f"no archive in {store}/: make archive NAME=<run> VERSION=1.0")
    return matches


def _available(matches: list[Archive]) -> str:
    return f" (available: {', '.join(f'{archive.name} {archive.version}' for archive in matches)})" if matches else ""
