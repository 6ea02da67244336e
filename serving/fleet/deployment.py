"""A deployment over all nodes of a fleet, as the command sees it that begins it and waits for its end.

The nodes carry it out (`serving.fleet.agent`): it ends also without this command.
"""

import dataclasses
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from serving import verify as verification
from serving.fleet import archives
from serving.fleet.desired import Desired, Ended, FleetError, Rollout
from serving.fleet.reports import NodeReport, Reports
from serving.fleet.shared_document import AddressError
from serving.fleet.state import FleetState, check_exists
from serving.lifecycle.deployment import DeployLimits
from serving.store import model_store, signature

LIMITS = DeployLimits()
LOOK, PAUSE = 0.25, 2.0  # seconds between two looks at the desired state; after one that failed
SETTLED = 3.0  # seconds until each gateway has seen the end, and asks no node that was left out


class FleetDeployment:
    """Deploys versions to the nodes that follow `url`; `log` gets each step."""

    def __init__(self, url: str, log: Callable[[str], None] = print) -> None:
        self._url, self._log = url, log
        self._state, self._reports = FleetState(url), Reports(url)
        self._last: Mapping[str, NodeReport] = {}

    def desired(self) -> Desired:
        """Return the desired state at present."""
        return self._state.read()

    def deploy(
        self, name: str, version: str | None, root: Path, *, limits: DeployLimits = LIMITS, verify: bool = True
    ) -> str:
        """Make a version of the store in `root` (the newest where None) live on every node; return it.

        `limits` are those of each node; `verify=False` skips the first step, for an archive that was just built.

        Raises:
            FleetError: it is not live on any node, and the message says why.
            ArchiveError: there is no such archive.
            AddressError: the fleet's address cannot be used.
        """
        check_exists(self._url)
        archive = model_store.find(name, version, root / model_store.FOLDER)
        signature.check(archive, root)  # before its code runs
        if verify:
            self._log("verify ...")
            for check in verification.verify(archive).checks:
                self._log(f"  {check.name}: {check.result}")
        self._run(name, archive.version, limits, root=root)
        return archive.version

    def rollback(self, name: str, *, undo: bool = False) -> str:
        """Make the version before live on every node; return it. With `undo` no node keeps the replaced one.

        Raises:
            FleetError: there is none, or it is not live on any node.
            AddressError: the fleet's address cannot be used.
        """
        check_exists(self._url)
        model = self.desired().models.get(name)
        if model is None or model.previous is None:
            raise FleetError(
                f"the fleet at {self._url} has no version of {name} before this one: deploy one (make deploy FLEET=...)"
            )
        self._run(name, model.previous, LIMITS, live=model.version, is_undo=undo)
        return model.previous

    def _run(
        self,
        name: str,
        version: str,
        limits: DeployLimits,
        *,
        root: Path | None = None,
        live: str | None = None,
        is_undo: bool = False,
    ) -> None:
        """Deploy a version, whose archive is in the store of `root`, to the nodes that are alive.

        With `live`, only as long as that version is the fleet's.
        """
        self._log("looking for nodes ...")
        nodes, reports = self._reports.alive(), self._reports.read()
        for node in sorted(reports.keys() - set(nodes)):
            self._log(f"  {node} says nothing any more: it is left out until it is back")
        served = sorted({reports[node].serves.get(name, "") for node in nodes} - {""})
        if name not in self.desired().models and len(served) > 1:
            raise FleetError(
                f"the nodes serve {' and '.join(served)} of {name}, which the fleet does not know yet: deploy one of "
                "them on each (make deploy there) before their make watch"
            )
        if root is not None and nodes:
            self._push(name, {version, *served}, root / model_store.FOLDER)
        default = dataclasses.asdict(LIMITS)
        changed = {limit: value for limit, value in dataclasses.asdict(limits).items() if value != default[limit]}
        id_ = secrets.token_hex(8)
        rollout = Rollout(id_, name, version, served[0] if served else None, nodes, changed, is_undo=is_undo)

        def begin(now: Desired) -> Desired:
            if live is not None and now.models[name].version != live:
                raise FleetError(f"{name} {live} is not live any more")
            return now.with_rollout(rollout)

        try:
            self._state.update(begin)
            self._follow(id_)
        except KeyboardInterrupt:
            self._state.update(lambda now: now.with_failure(id_, "interrupted"))
            self._log("interrupted: the nodes go back; waiting for them ...")
            self._follow(id_)

    def _push(self, name: str, versions: set[str], store: Path) -> None:
        """Copy those archives that the store has to the fleet: a node without any may need the one before."""
        for archive in model_store.archives(store):
            if archive.name == name and archive.version in versions:
                archives.push(archive, self._url)

    def _follow(self, id_: str) -> None:
        """Say what happens until the deployment has ended."""
        before, fault, trouble = None, "", ""
        while True:
            try:
                desired, self._last = self._state.read(), self._reports.read()
                self._state.leave_out(self._reports.dead())
            except AddressError as error:  # the nodes carry it out all the same
                if str(error) != fault:
                    self._log(f"  {error}; the deployment goes on, and this command waits")
                fault = str(error)
                time.sleep(PAUSE)
                continue
            rollout = desired.rollout
            if rollout is None or rollout.id != id_:
                break
            if rollout != before:
                self._say(before, rollout)
            before, trouble = rollout, self._say_trouble(rollout, trouble)
            time.sleep(LOOK)
        if desired.ended is not None:
            self._say_left_out(before, desired.ended.left_out)
        self._end(desired.ended, id_)

    def _end(self, ended: Ended | None, id_: str) -> None:
        if ended is None or ended.id != id_:
            raise FleetError("another deployment has begun since this one ended: make status FLEET=... shows it")
        if ended.failure is not None:
            also = f"; {', '.join(ended.left_out)} will be, once back" if ended.left_out else ""
            raise FleetError(f"not deployed, and undone on every node{also}: {ended.failure}")
        time.sleep(SETTLED)

    def _say_left_out(self, before: Rollout | None, nodes: Sequence[str]) -> None:
        for node in nodes[len(before.left_out) if before is not None else 0 :]:
            self._log(f"  {node} is left out, and is made to serve the fleet's version once it is back")

    def _say_trouble(self, rollout: Rollout, before: str) -> str:
        """Say the step of the node whose turn it is, or why it waits; return that."""
        report = self._last.get(rollout.turn or "")
        if report is None:
            return ""
        news = f"{report.reason}; waiting for it" if report.reason else report.step
        if news and news != before:
            self._log(f"  {rollout.turn}: {news}")
        return news

    def _say(self, before: Rollout | None, now: Rollout) -> None:
        self._say_left_out(before, now.left_out)
        if now.failure is not None:
            self._log(f"{now.failure}: going back ({len(now.complete)} of {len(now.nodes)}) ...")
        elif now.turn is not None:
            self._log(f"{now.turn} ({len(now.complete) + 1} of {len(now.nodes)}) ...")
