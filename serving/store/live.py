"""What should be live: model_store/live.json, which a deployment changes in one step and a start brings back.

{"fingers": {"version": "2.0", "before": "1.0"}}

A server that is killed, together with everything around it, comes back as this file says. It is written after what it
says has been proven, so that a deployment that was cut short leaves the version that was live before. Several processes
change it: each reads, changes and writes it under one lock (`Live.update`), and changes only its own models.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Self

from handlers import atomic
from serving.host import lock
from serving.store import model_store
from serving.store.model_store import Archive, ArchiveError

FILE = "live.json"


@dataclasses.dataclass(frozen=True, slots=True)
class LiveModel:
    """The default version of a model, and the one before it, which stays READY for a rollback."""

    version: str
    before: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Live:
    """Every model that should be served, by its name."""

    models: Mapping[str, LiveModel]

    @classmethod
    def read(cls, root: Path) -> Self:
        """Return what should be live in `root`; nothing where that was never written.

        Raises:
            ArchiveError: the file is damaged, or may not be read.
        """
        path = root / model_store.FOLDER / FILE
        try:
            document = json.loads(path.read_text())
            return cls({name: LiveModel(**each) for name, each in document.items()})
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
        document = {name: dataclasses.asdict(each) for name, each in sorted(self.models.items())}
        atomic.write_json(root / model_store.FOLDER / FILE, document)

    @classmethod
    def update(cls, root: Path, change: Callable[[Self], Self]) -> Self:
        """Read what should be live, write what `change` makes of it, and return that; others wait meanwhile.

        Raises:
            ArchiveError: the file is damaged, or may not be read.
            Held: another process does not let go of it.
            OSError: it cannot be written.
        """
        with lock.recording(root):
            before = cls.read(root)
            after = change(before)
            if after != before:
                after.write(root)
        return after

    def merged(self, base: Self, wanted: Self) -> Self:
        """Return `wanted`, where this is what became of `base` meanwhile: a model that others changed stays as here."""
        names = {*self.models, *base.models}
        changed = {name for name in names if self.models.get(name) != base.models.get(name)}
        return type(self)(
            {name: each for name, each in wanted.models.items() if name not in changed}
            | {name: each for name, each in self.models.items() if name in changed}
        )

    def of(self, name: str, model: LiveModel) -> Self:
        """Return the same with another state of one model."""
        return type(self)({**self.models, name: model})

    def kept(self) -> list[tuple[str, str]]:
        """Return name and version of those that are kept for a rollback."""
        return [(name, each.before) for name, each in self.models.items() if each.before is not None]

    def without(self, gone: Collection[tuple[str, str]]) -> Self:
        """Return the same without some versions, kept ones or whole models."""
        return type(self)(
            {
                name: dataclasses.replace(each, before=None) if (name, each.before) in gone else each
                for name, each in self.models.items()
                if (name, each.version) not in gone
            }
        )

    def whole(self, store: Path) -> tuple[Self, dict[tuple[str, str], str]]:
        """Return this without the versions whose archives are gone or damaged, and why each of those is.

        The version kept for a rollback takes the place of one that is live.
        """
        models, damaged = {}, {}
        for name, each in self.models.items():
            for version in filter(None, (each.version, each.before)):
                try:
                    model_store.find(name, version, store).check()
                except ArchiveError as error:
                    damaged[name, version] = str(error)
                else:
                    models[name] = each if version == each.version else LiveModel(version)
                    break
        return type(self)(models), damaged

    def select(self, wanted: Iterable[str], store: Path) -> tuple[Self, list[Archive]]:
        """Return what a server that is asked for `wanted` (`NAME` or `NAME=VERSION`) serves, and the default archives.

        `NAME` means the version that is live, the newest one of a model that is not. Nothing wanted means the newest
        version of every model. A version kept for a rollback whose archive is gone is forgotten.

        Raises:
            ArchiveError: an archive that should be live is not there, or there is none at all.
        """
        live = {name: f"{name}={each.version}" for name, each in self.models.items()}
        chosen = model_store.select([live.get(each.removesuffix("="), each) for each in wanted], store)
        kept = {each.name: self._before(each, store) for each in chosen}
        models = {each.name: LiveModel(each.version, kept[each.name]) for each in chosen}
        return type(self)(models), chosen

    def _before(self, archive: Archive, store: Path) -> str | None:
        """Return the version to keep beside this one: the one that was live, or the one before it where it is that."""
        known = self.models.get(archive.name)
        if known is None:
            return None
        before = known.version if known.version != archive.version else known.before
        there = before is not None and model_store.path_of(archive.name, before, store).is_file()
        return before if there else None
