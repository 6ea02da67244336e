"""A trial with live requests: both versions answer copies of them, until the answers or the time suffice.

Shadow: the live version answers the clients, and copies of a share of their requests are sent to the new version.
`serving.rollout.canary` is the other way round.
"""

import abc
import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from handlers.sampling import Share
from serving.host import state
from serving.lifecycle import launch
from serving.rollout import copies, labels
from serving.rollout.comparison import Answer, Comparison, Pair
from serving.rollout.copies import Copy
from serving.rollout.decision import Criterion, criteria
from serving.rollout.trial import Candidate, TrialError

CALLERS, TIMED = 2, 200  # images that both versions are asked, for the latencies
FEWEST = 100  # images for a decision
LOOK, REPORT = 1.0, 15.0  # seconds between two looks at the criteria, and two lines
PAUSE = 0.05  # seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Length:
    """A trial ends after `requests` images or `minutes`; `labels` are seconds to wait for labels after the last one."""

    requests: int = 2000
    minutes: float = 30.0
    labels: float = 0.0


class LiveTrial(abc.ABC):
    """A trial; a subclass says which version the copied requests are from.

    Args:
        share: of the live requests.
        agreement: share of equal answers that is asked for; None: any.
    """

    name = ""

    def __init__(self, share: float, agreement: float | None = None, length: Length | None = None) -> None:
        self.share, self.agreement, self.length = share, agreement, length or Length()

    def check(self, root: Path, name: str, live: str | None) -> None:
        """Refuse a new model."""
        if live is None:
            raise TrialError(f"{name} is new: there is no live version to compare it with ({self.name.upper()})")

    def run(self, candidate: Candidate) -> None:
        """Compare the versions; refuse the new one if a criterion does, or if there were too few requests."""
        with self.copies(candidate) as folder:
            compared, criterion = _Run(self, candidate, folder).run()
        table = candidate.table(self.name)
        compared.write_csv(table)
        candidate.log(f"  all answers: {table.relative_to(candidate.root)}")
        if criterion is not None:
            raise TrialError(f"it is worse than {candidate.live} ({criterion})")
        if len(compared.pairs) < FEWEST:
            raise TrialError(
                f"{len(compared.pairs)} requests in {self.length.minutes:g} minutes are too few for a decision: "
                f"wait for traffic, try a larger {self.name.upper()}, or build the live version again if it is of an "
                "older release"
            )
        if not compared.paired().images:
            rate = 1 - compared.agreeing / len(compared.pairs)
            candidate.log(f"  no labels: it differs by {rate:.1%}, and may be better or worse")

    @abc.abstractmethod
    def copies(self, candidate: Candidate) -> contextlib.AbstractContextManager[Path]:
        """Have requests copied until the block ends; yield the folder of the copies."""

    @abc.abstractmethod
    def compare(self, candidate: Candidate, copy: Copy, *, timed: bool) -> Pair | None:
        """Return both answers to a copied request, None if the live version gives none."""

    def failures(self, candidate: Candidate) -> int:
        """Return the requests of clients that the new version has failed to answer."""
        return 0


class Shadow(LiveTrial):
    """The new version answers copies only."""

    name = "shadow"

    def copies(self, candidate: Candidate) -> contextlib.AbstractContextManager[Path]:
        """Have requests of the live version copied."""
        return copies.asked_for(mirror_of(candidate), candidate.name, Share(candidate.live or "", self.share))

    def compare(self, candidate: Candidate, copy: Copy, *, timed: bool) -> Pair | None:
        """Ask the new version; the live one only for its latency."""
        new, error = candidate.ask(copy.image, candidate.version)
        again = candidate.ask(copy.image, candidate.live or "")[0] if timed else None
        live = Answer(copy.row["label"], copy.row["confidence"], again.seconds if again is not None else math.nan)
        return pair_of(copy, live, new, error)


def mirror_of(candidate: Candidate) -> Path:
    """Return the folder of copies of the server.

    Raises:
        TrialError: it has ended.
    """
    server = state.running(candidate.root)
    if server is None:
        raise TrialError("the server has ended: start it (make serve)")
    return launch.mirror(server.temporary)


def pair_of(copy: Copy, live: Answer, new: Answer | None, error: str) -> Pair:
    """Return the pair of a copied request."""
    return Pair(copy.row["request_id"], copy.row["image"], copy.row["sha256"], live, new, error)


class _Run:
    """One run of a trial."""

    def __init__(self, trial: LiveTrial, candidate: Candidate, folder: Path) -> None:
        self._trial, self._candidate, self._folder = trial, candidate, folder
        self._compared = Comparison(classes=candidate.classes)
        self._pids = candidate.pids()
        self._asked = 0
        self._time_of_labels = 0
        self._pending: list[Future[Pair | None]] = []

    def run(self) -> tuple[Comparison, Criterion | None]:
        """Return the comparison, and the criterion that refuses the version."""
        length, pool = self._trial.length, ThreadPoolExecutor(CALLERS)
        start_time = time.monotonic()
        try:
            for _ in self._looks(pool, start_time + 60 * length.minutes):
                if (criterion := self._look()) is not None:
                    return self._compared, criterion
            return self._compared, self._look()
        finally:
            pool.shutdown(cancel_futures=True)
            self._candidate.log(
                "\n".join(f"  {line}" for line in [*self._compared.lines(), *map(str, self._criteria())])
            )

    def _looks(self, pool: ThreadPoolExecutor, deadline: float) -> Iterator[None]:
        """Compare requests, and yield when the criteria are due, until there are enough requests and labels."""
        look = report = time.monotonic()
        last = math.inf  # time after the last request
        while (now := time.monotonic()) < deadline:
            self._exchange(pool)
            enough = len(self._compared.pairs) >= self._trial.length.requests
            last = min(last, now) if enough else math.inf
            if now >= look:
                look = now + LOOK
                yield
            if now >= report:
                report = now + REPORT
                left = (deadline - now) / 60
                waits = f"no request yet: waits for {self._trial.length.requests:,} of them, {left:.0f} min at most"
                self._candidate.log(f"  {self._compared.lines()[0] if self._compared.pairs else waits}")
            if enough and (now - last >= self._trial.length.labels or self._all_labelled()):
                return
            time.sleep(PAUSE)

    def _exchange(self, pool: ThreadPoolExecutor) -> None:
        """Take the answers that are complete, and copies in their place."""
        ended = [future for future in self._pending if future.done()]
        self._pending = [future for future in self._pending if not future.done()]
        self._compared.pairs += [pair for future in ended if (pair := future.result()) is not None]
        missing = self._trial.length.requests - len(self._compared.pairs)
        for copy in copies.take(self._folder, max(0, min(2 * CALLERS, missing) - len(self._pending))):
            timed = self._asked < TIMED
            self._asked += 1
            self._pending.append(pool.submit(self._trial.compare, self._candidate, copy, timed=timed))

    def _all_labelled(self) -> bool:
        return all(pair.sha256 in self._compared.labels for pair in self._compared.pairs)

    def _look(self) -> Criterion | None:
        """Return the criterion that refuses the version."""
        self._candidate.check_workers(self._pids)
        self._read_labels()
        return next((criterion for criterion in self._criteria() if criterion.refuses), None)

    def _read_labels(self) -> None:
        folder = launch.predictions(self._candidate.root) / self._candidate.name
        time_of_labels = labels.time_of(folder)
        if time_of_labels != self._time_of_labels:
            self._time_of_labels = time_of_labels
            self._compared.labels = labels.by_image(folder)

    def _criteria(self) -> list[Criterion]:
        slow = sum(self._candidate.is_slow(*seconds) for seconds in self._compared.timed())
        return criteria(self._compared, slow, self._trial.failures(self._candidate), self._trial.agreement)
