"""Pack an archive: the same bytes for the same inputs, on every machine and at every time.

torch-model-archiver lays the files out and writes the manifest. The zip is written here: the archiver's own zip holds
the current time, the times of files, and the order of folders.
"""

import datetime as dt
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import handlers
from handlers import golden
from handlers.spec import FAMILIARITY, INT8, REFERENCE
from serving.store import provenance
from serving.store.model_store import ArchiveError

HANDLERS = Path(handlers.__file__).parent
HANDLER_FILE = "sightline_handler.py"
MANIFEST = "MAR-INF/MANIFEST.json"
CONFIG = "model-config.yaml"
GENERATED_FILES = frozenset((MANIFEST, CONFIG, provenance.FILE))  # written for an archive; all else is copied
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # of every member
ZIP_MODE = stat.S_IFREG | 0o644
ARCHIVER = "from model_archiver.model_packaging import generate_model_archive as main; main()"


def sources(weights: Path) -> dict[str, Path]:
    """Return the files of an archive of these weights, by their names in it, without those of `GENERATED_FILES`.

    The golden images, the int8 network, the bank of training images and the reference for drift are beside the weights.
    """
    files = {f"handlers/{path.relative_to(HANDLERS).as_posix()}": path for path in HANDLERS.rglob("*.py")}
    files |= {HANDLER_FILE: HANDLERS / HANDLER_FILE, weights.name: weights}
    for name in (golden.FILE, INT8, FAMILIARITY, REFERENCE) if weights.suffix == ".pt" else (golden.FILE,):
        if weights.with_name(name).is_file():
            files[name] = weights.with_name(name)
    return files


def contents(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of an archive's files, from its provenance; without the manifest, which has its version."""
    return {name: digest for name, digest in document.get("members", {}).items() if name != MANIFEST}


def stage(folder: Path, name: str, version: str, weights: Path, settings: Mapping[str, Any], date: dt.datetime) -> Path:
    """Lay out, inside an empty `folder`, the files of an archive; return their folder.

    Raises:
        ArchiveError: torch-model-archiver failed.
    """
    temporary, extra, exported = folder / "temporary", folder / "extra", folder / "exported"
    for path in (temporary, extra, exported):
        path.mkdir()
    # A folder given as an extra file keeps its sub-folders: `handlers` is a package in the worker as well.
    for inside, path in sources(weights).items():
        if inside not in (weights.name, HANDLER_FILE):
            (extra / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, extra / inside)
    config = folder / CONFIG
    config.write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    command = [sys.executable, "-c", ARCHIVER, "--archive-format", "no-archive", "--model-name", name]
    command += ["--version", version, "--serialized-file", str(weights), "--handler", str(HANDLERS / HANDLER_FILE)]
    command += ["--extra-files", str(extra), "--config-file", str(config), "--export-path", str(exported)]
    # A separate process: it empties and fills <temporary folder>/<name>, in which two builds would collide.
    result = subprocess.run(command, env=os.environ | {"TMPDIR": str(temporary)}, capture_output=True, text=True)
    if result.returncode:
        raise ArchiveError(f"torch-model-archiver failed: {(result.stderr.splitlines() or ['no output'])[-1]}")
    staged = exported / name
    manifest = json.loads((staged / MANIFEST).read_text())
    manifest["createdOn"] = date.strftime("%d/%m/%Y %H:%M:%S")
    (staged / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    return staged


def write(staged: Path, path: Path) -> None:
    """Write the files below `staged` as a zip, sorted by name, with one time and one permission."""
    files = {path.relative_to(staged).as_posix(): path for path in staged.rglob("*") if path.is_file()}
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as target:  # weights do not compress
        for name in sorted(files):
            member = zipfile.ZipInfo(name, ZIP_TIME)
            member.create_system, member.external_attr = 3, ZIP_MODE << 16  # as on Unix
            member.file_size = files[name].stat().st_size  # zipfile needs it to write ZIP64 above 32 bits
            with open(files[name], "rb") as source, target.open(member, "w") as sink:
                shutil.copyfileobj(source, sink, 2**20)
