"""The provenance and metrics of an archive: provenance.json inside it, and most of its sidecar.

commit, date           of the code that built it; "+" where files differed from the commit
trained                commit and package versions of the training
config                 of the training
dataset_fingerprint    of the prepared images
network, classes       as in the artifact
metrics                of the evaluation; null without one
model_config           the content of model-config.yaml, and `overrides`, the requested changes
versions               of Python and packages of the build
members                sha256 of every other file of the archive
"""

import datetime as dt
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from handlers import origin
from handlers.run_folder import RunFolder
from serving.store.model_store import ArchiveError

FILE = origin.FILE
PACKAGES = ("torch", "kornia", "numpy", "pillow", "simplejpeg", "torchserve", "torch-model-archiver")
DATE_VARIABLE = "SOURCE_DATE_EPOCH"  # seconds since 1970: reproducible-builds.org
OLDEST = dt.datetime(1980, 1, 1, tzinfo=dt.UTC)  # oldest date in a zip


def document(
    run: Path,
    spec: Mapping[str, Any],
    settings: Mapping[str, Any],
    overrides: Sequence[str],
    created: dt.datetime,
    staged: Path,
) -> dict[str, Any]:
    """Return the provenance of the archive whose files are below `staged`; reads the files of training in `run`."""
    files = RunFolder(run)
    trained = read_json(files.training) or {}
    artifact = spec["provenance"]
    return {
        "commit": commit(),
        "date": created.isoformat(),
        "trained": {name: artifact.get(name) for name in ("commit", "versions")},
        "config": yaml.safe_load(files.config.read_text()) if files.config.is_file() else None,
        "dataset_fingerprint": trained.get("fingerprint") or artifact.get("fingerprint"),
        "network": spec["network"],
        "classes": spec["classes"],
        "metrics": read_json(files.metrics),
        "model_config": dict(settings),
        "overrides": list(overrides),
        "versions": {"python": platform.python_version(), **{e: importlib.metadata.version(e) for e in PACKAGES}},
        "members": {path.relative_to(staged).as_posix(): sha256(path) for path in staged.rglob("*") if path.is_file()},
    }


def text(document: Mapping[str, Any]) -> str:
    """Return a document as text: the same text for the same content."""
    return json.dumps(document, indent=2, sort_keys=True, default=str) + "\n"


def sha256(path: Path) -> str:
    """Return the digest of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the document in a file, None without such a file."""
    if not path.is_file():
        return None
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def date() -> dt.datetime:
    """Return a reproducible build date: SOURCE_DATE_EPOCH, else this code's commit, else `OLDEST`.

    Raises:
        ArchiveError: SOURCE_DATE_EPOCH is not a number of seconds.
    """
    seconds = os.environ.get(DATE_VARIABLE)
    try:
        if seconds:
            return dt.datetime.fromtimestamp(int(seconds), dt.UTC)
        committed = _git("log", "-1", "--format=%ct")
        return dt.datetime.fromtimestamp(int(committed), dt.UTC) if committed else OLDEST
    except (ValueError, OverflowError, OSError) as error:
        raise ArchiveError(
            f"{DATE_VARIABLE}={seconds} is not a number of seconds since 1970: correct or unset it"
        ) from error


def commit() -> str | None:
    """Return the commit of this code, with "+" if files differ from it; None outside a git checkout."""
    head = _git("rev-parse", "HEAD")
    return head and head + ("+" if _git("status", "--porcelain", "-uno") else "")


def _git(*arguments: str) -> str | None:
    """Return git's output for this code's checkout, None without git or a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
