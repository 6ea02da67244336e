"""The models that a start serves: the requested ones, or the previously live ones and new ones of the store."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

from serving.client.model_status import ModelStatus
from serving.lifecycle.readiness import Version
from serving.store import model_store, signature
from serving.store.live import Live, LiveModel
from serving.store.model_store import Archive, ArchiveError


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The archives that a start loads first, as `live` says, and the `additions` after them.

    `strict`: the user named them, or nothing was ever live, so each must load. Otherwise only the models `named` must.
    `previous` are the previously live models, and `damaged` those of them that cannot be served, with the reasons.
    """

    previous: Live
    live: Live
    first: Sequence[Archive]
    additions: Sequence[Version]
    strict: bool
    damaged: Mapping[Version, str] = dataclasses.field(default_factory=dict)
    named: Collection[str] = ()

    @classmethod
    def of(cls, previous: Live, selection: Sequence[str], store: Path, *, restore: bool = False) -> Self:
        """Plan a start after `previous` was live; see `serving.server.start`.

        Raises:
            ArchiveError: a requested archive is missing or damaged; or all previously live ones are.
        """
        if previous.models and (restore or not selection):
            return cls._restoring(previous, selection, store, new_models=not restore)
        live, first = previous.select(selection, store)
        for archive in first:
            archive.check()
            signature.check(archive, store.parent)
        return cls(previous, live, first, live.rollback_versions(), strict=True)

    @classmethod
    def _restoring(cls, previous: Live, selection: Sequence[str], store: Path, *, new_models: bool) -> Self:
        """Plan to serve the previously live models again beside those of `selection`, and perhaps the store's new ones.

        Raises:
            ArchiveError: a requested archive is missing or damaged; or all previously live ones are.
        """
        named = {text.partition("=")[0] for text in selection}
        unnamed = Live({name: model for name, model in previous.models.items() if name not in named})
        whole, damaged = unnamed.without_damaged(store)
        if not whole.models and not selection:
            raise ArchiveError("nothing of what was live can be served: " + "; ".join(damaged.values()))
        restored = [f"{name}={model.version}" for name, model in whole.models.items()]
        live, first = Live({**previous.models, **whole.models}).select([*restored, *selection], store)
        for archive in first:
            if archive.name in named:
                archive.check()
                signature.check(archive, store.parent)
        new = _new_versions(previous, store) if new_models else []
        return cls(previous, live, first, [*live.rollback_versions(), *new], strict=False, damaged=damaged, named=named)

    @property
    def required(self) -> list[Version]:
        """Return the first versions that must load."""
        return [(archive.name, archive.version) for archive in self.first if self.strict or archive.name in self.named]

    @property
    def optional(self) -> list[Version]:
        """Return the first versions that the server can start without."""
        required = self.required
        return [version for archive in self.first if (version := (archive.name, archive.version)) not in required]

    @property
    def models(self) -> int:
        """Return the number of models that share the machine."""
        return len({archive.name for archive in self.first} | {name for name, _ in self.additions})

    @property
    def forgotten(self) -> list[Version]:
        """Return the live versions of models that this start does not serve, since the user named only others."""
        if not self.strict:
            return []
        named = {archive.name for archive in self.first}
        return [(name, model.version) for name, model in self.previous.models.items() if name not in named]

    def recorded(self, left_out: Collection[Version], loaded: Sequence[ModelStatus] = ()) -> Live:
        """Return the new live.json after some versions did not load, and additions were `loaded`.

        A live version that does not load stays recorded: the next start retries it.
        """
        retried = {
            version[0]: self.previous.models[version[0]]
            for version in (*self.damaged, *left_out)
            if self._was_live(version)
        }
        new = {status.name: LiveModel(status.version) for status in loaded if status.name not in self.live.models}
        dropped = [version for version in left_out if version[0] not in retried]
        return Live({**Live({**new, **self.live.models}).without(dropped).models, **retried})

    def _was_live(self, version: Version) -> bool:
        model = self.previous.models.get(version[0])
        return not self.strict and model is not None and model.version == version[1]


def _new_versions(previous: Live, store: Path) -> list[Version]:
    """Return the newest version of each model of the store that was not live."""
    newest = model_store.newest(store)
    return [(archive.name, archive.version) for archive in newest if archive.name not in previous.models]
