"""Canary: the new version answers a share of the clients' requests, and copies of these are sent to the live one."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from handlers.sampling import Share
from serving.client.canary import Canary as CanaryFiles
from serving.host import logs
from serving.rollout import copies
from serving.rollout.comparison import Answer, Pair
from serving.rollout.copies import Copy
from serving.rollout.live_trial import LiveTrial, mirror_of, pair_of
from serving.rollout.trial import Candidate


class Canary(LiveTrial):
    """The new version answers the requests that clients send to it by `serving.client.canary`."""

    name = "canary"

    @contextlib.contextmanager
    def copies(self, candidate: Candidate) -> Iterator[Path]:
        """Have clients ask the new version, and its answers copied."""
        files = _files(candidate)
        files.failures(candidate.name).unlink(missing_ok=True)  # of requests that ended after an earlier trial
        # Clients end first: they ask the live version while the new one is removed.
        with (
            copies.asked_for(mirror_of(candidate), candidate.name, Share(candidate.version, 1.0)) as folder,
            copies.renewed(files.file(candidate.name), Share(candidate.version, self.share)),
        ):
            yield folder
        files.failures(candidate.name).unlink(missing_ok=True)

    def compare(self, candidate: Candidate, copy: Copy, *, timed: bool) -> Pair | None:
        """Ask the live version; the new one only for its latency."""
        again = candidate.ask(copy.image, candidate.version)[0] if timed else None
        live, _ = candidate.ask(copy.image, candidate.live or "")
        new = Answer(copy.row["label"], copy.row["confidence"], again.seconds if again is not None else math.nan)
        return pair_of(copy, live, new, "") if live is not None else None

    def failures(self, candidate: Candidate) -> int:
        """Return the requests of clients that the new version has failed to answer, and the live one answered."""
        path = _files(candidate).failures(candidate.name)
        return len(path.read_bytes().splitlines()) if path.is_file() else 0


def _files(candidate: Candidate) -> CanaryFiles:
    return CanaryFiles(candidate.root / logs.FOLDER)
