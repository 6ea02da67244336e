"""Files that are there whole or not at all, however a process ends: a reader has the old one or the new one."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from handlers import process


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, of the same name in a folder beside it; the file takes its place where the block ends.

    The name stays, since writers go by its suffix, and TorchScript names the records inside after it. Where the block
    raises, what stood at `path` stays; what a writer that was killed left behind goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}-*-*"):
        if _is_left(*left.name.rsplit("-", 2)[1].partition(".")[::2]):
            shutil.rmtree(left, ignore_errors=True)
    writer = f"{os.getpid()}.{process.created(os.getpid())}"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-{writer}-") as folder:
        part = Path(folder) / path.name
        yield part
        os.replace(part, path)


def _is_left(pid: str, started: str) -> bool:
    """Return whether the writer of that process id and start, which older releases did not write down, has ended."""
    if not started.isdecimal():
        return pid.isdecimal() and not Path(f"/proc/{pid}").exists()
    return pid.isdecimal() and not process.runs(int(pid), int(started))


def write_text(path: Path, text: str) -> None:
    """Write a text file into a folder, which is made where it is missing; after a loss of power it is never half."""
    with replacing(path) as part, open(part, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document for people and programs; ValueError where a number is not finite."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def replace_folder(new: Path, old: Path) -> None:
    """Put the folder `new` in the place of `old`, which is kept whole until `new` stands there."""
    aside = old.with_name(f"{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)
