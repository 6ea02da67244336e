"""The models that a start serves: the requested ones, or the previously live ones and new ones of the store."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

from serving.client.model_status import ModelStatus
from serving.lifecycle.readiness import Version
from serving.store import model_store
from serving.store.live import Live, LiveModel
from serving.store.model_store import Archive, ArchiveError


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The archives that come `first`, as `live` says, and the `others` beside them.

    `strict`: the user named them, or nothing was ever live, so each must load. Otherwise only the models `named` must.
    `known` are the previously live models, and `damaged` those of them that cannot be served, with the reasons.
    """

    known: Live
    live: Live
    first: Sequence[Archive]
    others: Sequence[Version]
    strict: bool
    damaged: Mapping[Version, str] = dataclasses.field(default_factory=dict)
    named: Collection[str] = ()

    @classmethod
    def of(cls, known: Live, wanted: Sequence[str], store: Path, *, restore: bool = False) -> Self:
        """Plan a start after `known` was live; see `serving.server.start`.

        Raises:
            ArchiveError: a requested archive is missing or damaged; or all previously live ones are.
        """
        if not known.models or (wanted and not restore):
            live, first = known.select(wanted, store)
            for archive in first:
                archive.check()
            return cls(known, live, first, live.rollback_versions(), strict=True)
        named = {text.partition("=")[0] for text in wanted}
        unnamed = Live({name: model for name, model in known.models.items() if name not in named})
        whole, damaged = unnamed.without_damaged(store)
        if not whole.models and not wanted:
            raise ArchiveError("nothing of what was live can be served: " + "; ".join(damaged.values()))
        back = [f"{name}={model.version}" for name, model in whole.models.items()]
        live, first = Live({**known.models, **whole.models}).select([*back, *wanted], store)
        for archive in first:
            if archive.name in named:
                archive.check()
        new = [archive for archive in model_store.newest(store) if archive.name not in known.models and not restore]
        others = [*live.rollback_versions(), *((archive.name, archive.version) for archive in new)]
        return cls(known, live, first, others, strict=False, damaged=damaged, named=named)

    @property
    def required(self) -> list[Version]:
        """Return which of the first ones must load."""
        return [(archive.name, archive.version) for archive in self.first if self.strict or archive.name in self.named]

    @property
    def models(self) -> int:
        """Return the number of models that share the machine."""
        return len({archive.name for archive in self.first} | {name for name, _ in self.others})

    @property
    def forgotten(self) -> list[Version]:
        """Return the live versions of models that this start does not serve, since the user named only others."""
        named = {archive.name for archive in self.first}
        return [(name, model.version) for name, model in self.known.models.items() if self.strict and name not in named]

    def recorded(self, left_out: Collection[Version], more: Sequence[ModelStatus] = ()) -> Live:
        """Return the new live.json after some versions did not load, and `more` loaded beside the first ones.

        A live version that does not load stays recorded: the next start retries it.
        """
        lost = {
            version[0]: self.known.models[version[0]]
            for version in (*self.damaged, *left_out)
            if self._was_live(version)
        }
        new = {status.name: LiveModel(status.version) for status in more if status.name not in self.live.models}
        gone = [version for version in left_out if version[0] not in lost]
        return Live({**Live({**new, **self.live.models}).without(gone).models, **lost})

    def _was_live(self, version: Version) -> bool:
        known = self.known.models.get(version[0])
        return not self.strict and known is not None and known.version == version[1]
