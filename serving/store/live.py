"""The versions that should be live: model_store/live.json, which a deployment changes and a start restores.

{"fingers": {"version": "2.0", "before": "1.0", "deployed": 1790000000.0}}

A server that is killed, with all processes around it, restarts as this file says. It is written only after the check of
a new version, so that an interrupted deployment leaves the previous one live. Several processes change it: each reads,
changes and writes it under one lock (`Live.update`), and changes only its own models.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Self

from handlers import atomic
from serving.host import lock
from serving.store import model_store, signature
from serving.store.model_store import Archive, ArchiveError

FILE = "live.json"


@dataclasses.dataclass(frozen=True, slots=True)
class LiveModel:
    """The default version of a model, and the previous one, which stays READY for a rollback.

    `deployed` is the time of its deployment in seconds since 1970, None after a rollback or without a deployment.
    """

    version: str
    previous: str | None = None
    deployed: float | None = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Live:
    """Every model that should be served, by its name."""

    models: Mapping[str, LiveModel]

    @classmethod
    def read(cls, root: Path) -> Self:
        """Return the versions that should be live in `root`; none without a file.

        Raises:
            ArchiveError: the file is damaged, or may not be read.
        """
        path = root / model_store.FOLDER / FILE
        try:
            document = json.loads(path.read_text())
            return cls({name: _of_entry(**entry) for name, entry in document.items()})
        except FileNotFoundError:
            return cls({})
        except OSError as error:
            raise ArchiveError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise ArchiveError(
                f"{path} is damaged ({error!r}): remove it, and name what to serve (make serve ARGS=NAME=VERSION)"
            ) from error

    def write(self, root: Path) -> None:
        """Write it in one step."""
        document = {
            name: {"version": model.version, "before": model.previous}
            | ({"deployed": model.deployed} if model.deployed is not None else {})
            for name, model in sorted(self.models.items())
        }
        atomic.write_json(root / model_store.FOLDER / FILE, document)

    @classmethod
    def update(cls, root: Path, change: Callable[[Self], Self]) -> Self:
        """Read the file, apply `change`, write and return the result, under a lock.

        Raises:
            ArchiveError: the file is damaged, or may not be read.
            Held: another process holds the lock for too long.
            OSError: it cannot be written.
        """
        with lock.recording(root):
            old = cls.read(root)
            new = change(old)
            if new != old:
                new.write(root)
        return new

    def merged(self, base: Self, target: Self) -> Self:
        """Return `target`, but keep the models that differ between `base` and this: other processes changed them."""
        names = {*self.models, *base.models}
        changed = {name for name in names if self.models.get(name) != base.models.get(name)}
        return type(self)(
            {name: model for name, model in target.models.items() if name not in changed}
            | {name: model for name, model in self.models.items() if name in changed}
        )

    def with_model(self, name: str, model: LiveModel) -> Self:
        """Return a copy with another state of one model."""
        return type(self)({**self.models, name: model})

    def rollback_versions(self) -> list[tuple[str, str]]:
        """Return name and version of the versions kept for a rollback."""
        return [(name, model.previous) for name, model in self.models.items() if model.previous is not None]

    def without(self, versions: Collection[tuple[str, str]]) -> Self:
        """Return a copy without some versions, kept ones or live ones with their models."""
        return type(self)(
            {
                name: dataclasses.replace(model, previous=None) if (name, model.previous) in versions else model
                for name, model in self.models.items()
                if (name, model.version) not in versions
            }
        )

    def without_damaged(self, store: Path) -> tuple[Self, dict[tuple[str, str], str]]:
        """Return a copy without the versions whose archives are missing, damaged or unsigned, and the reason for each.

        The version kept for a rollback replaces a damaged live one.
        """
        models, damaged = {}, {}
        for name, model in self.models.items():
            for version in filter(None, (model.version, model.previous)):
                try:
                    archive = model_store.find(name, version, store)
                    archive.check()
                    signature.check(archive, store.parent)
                except ArchiveError as error:
                    damaged[name, version] = str(error)
                else:
                    models[name] = model if version == model.version else LiveModel(version)
                    break
        return type(self)(models), damaged

    def select(self, requests: Iterable[str], store: Path) -> tuple[Self, list[Archive]]:
        """Return the live versions for `requests` (`NAME` or `NAME=VERSION`), and the default archives.

        `NAME` means the live version, or the newest one of a model that is not live. No request means the newest
        version of every model. A version kept for a rollback whose archive is missing is dropped.

        Raises:
            ArchiveError: a requested archive is missing, or the store is empty.
        """
        live = {name: f"{name}={model.version}" for name, model in self.models.items()}
        archives = model_store.select([live.get(text.removesuffix("="), text) for text in requests], store)
        models = {
            archive.name: LiveModel(archive.version, self._previous(archive, store), self._deployed(archive))
            for archive in archives
        }
        return type(self)(models), archives

    def _deployed(self, archive: Archive) -> float | None:
        """Return the time of an archive's deployment if it is the live one."""
        live = self.models.get(archive.name)
        return live.deployed if live is not None and live.version == archive.version else None

    def _previous(self, archive: Archive, store: Path) -> str | None:
        """Return the version to keep beside this one: the live one, or its predecessor if this one is live."""
        live = self.models.get(archive.name)
        if live is None:
            return None
        previous = live.version if live.version != archive.version else live.previous
        exists = previous is not None and model_store.path_of(archive.name, previous, store).is_file()
        return previous if exists else None


def _of_entry(version: str, before: str | None = None, deployed: float | None = None) -> LiveModel:
    """Return the live model of an entry of the file."""
    return LiveModel(version, before, deployed)
