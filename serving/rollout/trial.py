"""One trial of a new version, as `serving.lifecycle.deployment` runs it: between its loading and the switch."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from serving.client import Client, Prediction
from serving.errors import ServingError
from serving.host import logs
from serving.rollout import comparison
from serving.rollout.comparison import Answer

DEADLINE = 10.0  # seconds for one answer
FOLDER = "trials"  # below the logs


class TrialError(ServingError):
    """The new version does not pass, or there is nothing to try it with; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A loaded version of a model beside the live one, None for a new model.

    `slower` and `grace` limit its latency, see `DeployLimits`; `classes` are those of both.
    """

    root: Path
    client: Client
    name: str
    version: str
    live: str | None
    classes: frozenset[str]
    slower: float
    grace: float
    log: Callable[[str], None]

    def ask(self, image: bytes, version: str) -> tuple[Answer | None, str]:
        """Return the answer of one version without a trace in metrics and log, or None and the kind of the error."""

        def predict() -> Prediction:
            return self.client.predict(image, self.name, version, deadline=DEADLINE, counted=False)

        return comparison.answer_of(predict, time.perf_counter)

    def table(self, trial: str) -> Path:
        """Return the file for all answers of a trial."""
        return self.root / logs.FOLDER / FOLDER / f"{self.name}-{self.version}-{trial}.csv"

    def pids(self) -> list[int]:
        """Return the processes of its workers."""
        return [worker.pid for worker in self.client.describe(self.name, self.version).workers]

    def check_workers(self, pids: Sequence[int]) -> None:
        """Check that the same workers are READY."""
        status = self.client.describe(self.name, self.version)
        if not status.ready or [worker.pid for worker in status.workers] != list(pids):
            raise TrialError("a worker died")

    def is_slow(self, live: float, new: float) -> bool:
        """Return whether seconds of the new version are above the limit that those of the live one give."""
        return new > self.slower * live + self.grace


class Trial(Protocol):
    """A trial; both methods raise `TrialError`."""

    name: str

    def check(self, root: Path, name: str, live: str | None) -> None:
        """Refuse before anything is loaded, if it cannot run."""

    def run(self, candidate: Candidate) -> None:
        """Try a version; refuse it if it does not pass."""
