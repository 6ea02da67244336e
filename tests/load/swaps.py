"""Deployments beside a load: versions of one model in turns, as `make deploy` swaps them."""

import itertools
import sys

from gevent import subprocess
from gevent.event import Event

from serving.store import model_store
from tests.load.history import History, Swap


class Swaps:
    """What `NAME=VERSION,VERSION` asks for; nothing where that is empty.

    Raises:
        ValueError: it asks for fewer than two versions.
        ArchiveError: one of them is not in the model store.
    """

    def __init__(self, text: str, pause: float) -> None:
        self.name, _, versions = text.partition("=")
        self.versions = [version for version in versions.split(",") if version]
        self.pause = pause  # seconds between two
        if text and len(self.versions) < 2:
            raise ValueError(f"--swap {text!r}: write NAME=VERSION,VERSION")
        for version in self.versions:
            model_store.find(self.name, version)

    def run(self, history: History, live: str, stopping: Event) -> None:
        """Deploy one after the other, beginning with one that is not live, until it is to stop; note each."""
        others = [version for version in self.versions if version != live]
        for version in itertools.cycle([*others, live]):
            if stopping.wait(self.pause):
                return
            history.swaps.append(self._deploy(version, history))

    def _deploy(self, version: str, history: History) -> Swap:
        found = Swap(f"{self.name} {version}", history.now)
        command = [sys.executable, "-m", "serving.deploy", self.name, version, "--no-keep", "--watch", "1"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        last = ""
        for line in process.stdout:
            last = line.strip()
            if line.startswith("switch"):
                found.switched = history.now
        found.error = last if process.wait() else ""
        found.ended = history.now
        return found
