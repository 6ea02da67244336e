"""The desired state of a fleet: the versions of its nodes, and the deployment that changes them node by node.

Each function that returns a `Desired` is a step that some node or command takes; `SharedDocument` sees to it that each
step is taken from the newest state.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Self

from serving.errors import ServingError
from serving.store.live import LiveModel


class FleetError(ServingError):
    """A deployment over a fleet cannot begin, or has failed; the message says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rollout:
    """A deployment under way: the nodes take their turns in order, after a failure back in reverse order.

    `before` is None for a new model; `limits` are the fields of `DeployLimits` that differ from the defaults;
    `failure` is the reason why it goes back. After one that `is_undo` no node keeps the version before.
    """

    id: str
    name: str
    version: str
    before: str | None
    nodes: tuple[str, ...]
    limits: Mapping[str, float]
    complete: tuple[str, ...] = ()
    failure: str | None = None
    left_out: tuple[str, ...] = ()
    is_undo: bool = False

    @property
    def turn(self) -> str | None:
        """Return the node whose turn it is, None at the end."""
        if self.failure is not None:
            return self.complete[-1] if self.complete else None
        return next((node for node in self.nodes if node not in self.complete), None)

    def version_of(self, node: str) -> str | None:
        """Return the version that a node should serve at present: the new one from its turn on, until its turn back."""
        is_new = node in self.complete or self.turn == node
        if self.failure is not None:
            is_new = node in self.complete and self.turn != node
        return self.version if is_new else self.before


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How a deployment ended: why it failed, None if it did not, and the nodes that it left out."""

    id: str
    failure: str | None
    left_out: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Desired:
    """The versions of all models, the deployment under way, and the end of the last one.

    `withdrawn` has the version of a model that was new and failed, or was undone: a node that has it removes it.
    """

    models: Mapping[str, LiveModel] = dataclasses.field(default_factory=dict)
    rollout: Rollout | None = None
    ended: Ended | None = None
    withdrawn: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Self:
        """Return the state of a document.

        Raises:
            FleetError: it is not one of ours.
        """
        try:
            models = {
                name: LiveModel(entry["version"], entry["before"]) for name, entry in document.get("models", {}).items()
            }
            rollout, ended = document.get("rollout"), document.get("ended")
            if rollout is not None:
                nodes = {field: tuple(rollout[field]) for field in ("nodes", "complete", "left_out")}
                rollout = Rollout(**{**rollout, **nodes})
            if ended is not None:
                ended = Ended(ended["id"], ended["failure"], tuple(ended["left_out"]))
            return cls(models, rollout, ended, dict(document.get("withdrawn", {})))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise FleetError(f"the newest file of desired/ is damaged ({error!r}): remove it") from error

    def document(self) -> dict[str, Any]:
        """Return it as a document."""
        models = {name: {"version": model.version, "before": model.previous} for name, model in self.models.items()}
        document = {
            "models": models,
            "rollout": dataclasses.asdict(self.rollout) if self.rollout is not None else None,
            "ended": dataclasses.asdict(self.ended) if self.ended is not None else None,
            "withdrawn": dict(self.withdrawn),
        }
        plain: dict[str, Any] = json.loads(json.dumps(document))  # lists in place of tuples, as it will be read
        return plain

    def versions_of(self, node: str) -> dict[str, str | None]:
        """Return the version of each model that a node should serve at present, None for one that it should not."""
        versions: dict[str, str | None] = {name: model.version for name, model in self.models.items()}
        if self.rollout is not None:
            versions[self.rollout.name] = self.rollout.version_of(node)
        return versions

    def allows(self, served: Mapping[str, str]) -> bool:
        """Return whether a node with these default versions may answer: it has each model, in one of its versions.

        During a deployment both versions may answer. Models that the fleet does not know do not matter.
        """
        allowed = {name: {model.version} for name, model in self.models.items()}
        if self.rollout is not None and self.rollout.name in allowed:
            allowed[self.rollout.name].add(self.rollout.version)
        return all(served.get(name) in versions for name, versions in allowed.items()) and not any(
            served.get(name) == version for name, version in self.withdrawn.items()
        )

    def with_rollout(self, rollout: Rollout) -> Self:
        """Return the state in which a deployment begins; its `before` counts only for a model that is new to the fleet.

        Raises:
            FleetError: another deployment is under way, the version is live, or there is no node.
        """
        if self.rollout is not None and self.rollout.id == rollout.id:
            return self  # it was written, and the answer was lost
        if self.rollout is not None:
            raise FleetError(f"{self.rollout.name} {self.rollout.version} is being deployed: wait for its end")
        live = self.models.get(rollout.name)
        if live is not None and live.version == rollout.version:
            raise FleetError(f"{rollout.name} {rollout.version} is live already")
        if not rollout.nodes:
            raise FleetError(
                "no node of this fleet reports at present: make watch FLEET=<address> in the folder of each"
            )
        before = live.version if live is not None else rollout.before
        withdrawn = {name: version for name, version in self.withdrawn.items() if name != rollout.name}
        rollout = dataclasses.replace(rollout, before=before)
        return dataclasses.replace(self, rollout=rollout, withdrawn=withdrawn)

    def with_turn_taken(self, id_: str, node: str, *, back: bool) -> Self:
        """Return the state after a node has taken its turn, forward or back; the last turn ends the deployment."""
        rollout = self.rollout
        if rollout is None or rollout.id != id_ or rollout.turn != node or back != (rollout.failure is not None):
            return self
        complete = rollout.complete[:-1] if back else (*rollout.complete, node)
        return self._with(dataclasses.replace(rollout, complete=complete))

    def with_failure(self, id_: str, reason: str, *, node: str | None = None) -> Self:
        """Return the state in which the nodes that have the version go back.

        `node` has undone its turn itself; without it, the one whose turn it is goes back too: it may have the version.
        """
        rollout = self.rollout
        if rollout is None or rollout.id != id_ or rollout.failure is not None:
            return self
        doubtful = () if rollout.turn in (node, None) else (rollout.turn,)
        return self._with(dataclasses.replace(rollout, failure=reason, complete=(*rollout.complete, *doubtful)))

    def without(self, id_: str, node: str) -> Self:
        """Return the state in which the deployment does not wait for a node that has died."""
        rollout = self.rollout
        if rollout is None or rollout.id != id_ or node not in rollout.nodes:
            return self
        nodes = tuple(other for other in rollout.nodes if other != node)
        complete = tuple(other for other in rollout.complete if other != node)
        failure = rollout.failure or (None if nodes else "no node is left")
        left_out = (*rollout.left_out, node)
        return self._with(
            dataclasses.replace(rollout, nodes=nodes, complete=complete, failure=failure, left_out=left_out)
        )

    def _with(self, rollout: Rollout) -> Self:
        """Return the state with a deployment, or after it if nobody has a turn."""
        if rollout.turn is not None:
            return dataclasses.replace(self, rollout=rollout)
        before = rollout.before if rollout.before != rollout.version else None  # the nodes served it already
        models, withdrawn = dict(self.models), dict(self.withdrawn)
        if rollout.failure is None and rollout.is_undo:
            models[rollout.name] = LiveModel(rollout.version)
            withdrawn |= {rollout.name: before} if before is not None else {}
        elif rollout.failure is None:
            models[rollout.name] = LiveModel(rollout.version, before)
        elif rollout.before is None:
            withdrawn[rollout.name] = rollout.version
        else:  # also of a model that the fleet did not know: a node that was left out goes back later
            models.setdefault(rollout.name, LiveModel(rollout.before))
        ended = Ended(rollout.id, rollout.failure, rollout.left_out)
        return dataclasses.replace(self, models=models, rollout=None, ended=ended, withdrawn=withdrawn)
