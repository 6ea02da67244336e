"""Requests that a version answers before it is live: a canary, which `make deploy CANARY=0.1` asks for.

logs/canary-MODEL.json       the version and its share of the requests, see `handlers.sampling`
logs/canary-MODEL.failures   a line for each request that it failed to answer, and the live version answered

A client follows this rule: of a request's id, `is_selected(id, share, CANARY)`; the gateway chooses by chance. Both
need the right to read and write these files, and otherwise ask the live version.
"""

import contextlib
from pathlib import Path

from handlers.sampling import Share, ShareFile


class Canary:
    """The files in the folder of a server's logs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, ShareFile] = {}

    def file(self, model: str) -> ShareFile:
        """Return the file that asks for a share of a model's requests."""
        file = self._files.get(model)
        return file or self._files.setdefault(model, ShareFile(self._folder / f"canary-{model}.json"))

    def share(self, model: str) -> Share | None:
        """Return the share that is asked for at present."""
        return self.file(model).read()

    def add_failure(self, model: str, reason: str) -> None:
        """Report a failure to the deployment."""
        with contextlib.suppress(OSError), open(self.failures(model), "a", encoding="utf-8") as file:
            file.write(f"{' '.join(reason.split())}\n")

    def failures(self, model: str) -> Path:
        """Return the file of failures."""
        return self._folder / f"canary-{model}.failures"
