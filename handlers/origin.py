"""Where an archive comes from: the commit of the code that built it."""

import json
import re
from pathlib import Path

FILE = "provenance.json"  # in an archive, beside the weights
COMMIT = re.compile(r"[0-9a-f]{7,64}\+?")  # "+": files differed from that commit


def commit_of(weights: Path) -> str | None:
    """Return the commit in the provenance beside the weights; None without one, as in a run that is no archive."""
    try:
        document = json.loads(weights.with_name(FILE).read_text(encoding="utf-8"))
        commit = str(document["commit"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return commit if COMMIT.fullmatch(commit) else None  # it goes into a header, where a line break kills the worker
