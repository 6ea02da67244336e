"""A result of several sections: each is written as soon as it is measured, and stays until it is measured anew."""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.result import Origin
from handlers.atomic import write_json
from training.train import machine, versions


class Sections:
    """The document of one benchmark; sections that another machine or other versions found are dropped."""

    def __init__(self, benchmark: str, path: Path, **about: Any) -> None:
        """Read what is kept at `path`; `about` says what all sections have in common."""
        self.path, self.origin = path, Origin(benchmark, sys.argv[1:])
        here = {"machine": machine("cpu"), "versions": versions()}
        kept = json.loads(path.read_text()) if path.is_file() else {}
        if any(kept.get(name) != value for name, value in here.items()):
            kept = {}
        self.found: dict[str, Any] = kept.get("sections", {})
        self.commands: dict[str, str] = kept.get("commands", {})
        self.origins: dict[str, Any] = kept.get("origins", {})
        self.about = {"benchmark": benchmark, **about, **here}

    @property
    def document(self) -> dict[str, Any]:
        """Return all of it, for people and programs."""
        return {**self.about, "commands": self.commands, "origins": self.origins, "sections": self.found}

    def keep(self, name: str, found: Any) -> None:
        """Take the place of what was found before, and write it."""
        self.found[name], self.commands[name], self.origins[name] = found, self.origin.command, self.origin.run()
        write_json(self.path, self.document)
