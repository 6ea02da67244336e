"""A folder of generated files: written in parallel, complete or not at all, and never over a user's files."""

import dataclasses
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from handlers.atomic import replace_folder
from handlers.machine import cores
from training.data.progress import plain_console, progress
from training.data.records import DRAWN, DatasetError

VERSION = 1  # raise it when a drawing changes, so that older folders are generated again
CHUNK = 64  # images that a worker makes between two steps of the progress bar


@dataclasses.dataclass(frozen=True, slots=True)
class Parameters:
    """All that decides the files of a generated folder."""

    dataset: str
    seed: int
    images_per_class: int
    classes: int
    size: int
    version: int = VERSION


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One file: its path within the folder, and the module-level function and arguments that make its bytes."""

    path: str
    make: Callable[..., bytes]
    arguments: tuple[Any, ...]
    images: int = 1


def build(raw: Path, parameters: Parameters, tasks: Sequence[Task], workers: int | None = None) -> bool:
    """Make all files of `tasks` under `raw`, or return False if `raw` has the same files already.

    The folder appears whole, by a rename. `workers` processes share the work (None: one a core, none for small sets).
    Raises `DatasetError` where `raw` holds anything that was not generated.
    """
    raw = Path(os.path.abspath(raw))
    document = {**dataclasses.asdict(parameters), "files": len({task.path for task in tasks})}
    if _written_document(raw) == document and _count(raw) == document["files"]:
        return False
    _refuse_foreign(raw)
    partial = raw.with_name(raw.name + ".partial")
    _refuse_foreign(partial)
    shutil.rmtree(partial, ignore_errors=True)
    for folder in {str(Path(task.path).parent) for task in tasks}:
        (partial / folder).mkdir(parents=True, exist_ok=True)
    # The mark goes in first: an interrupted run leaves a folder that the next run knows as its own.
    (partial / DRAWN).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    _make(partial, parameters.dataset, tasks, workers)
    replace_folder(partial, raw)
    return True


def _make(partial: Path, title: str, tasks: Sequence[Task], workers: int | None) -> None:
    total = sum(task.images for task in tasks)
    if workers is None:
        workers = 1 if total < 4 * CHUNK else min(cores(), 8)
    with ExitStack() as stack:
        chunks = list(_chunks(tasks))
        paths = [str(partial)] * len(chunks)
        if workers > 1:
            # Forking a process that has threads (the progress bar's, torch's) may hang: start clean ones.
            context = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=context))
            sizes: Iterator[int] = pool.map(_write, paths, chunks)
        else:
            sizes = map(_write, paths, chunks)
        advance = stack.enter_context(progress(plain_console(), f"drawing {title}", total))
        for images in sizes:
            advance(images)


def _chunks(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    chunk: list[Task] = []
    for task in tasks:
        chunk.append(task)
        if sum(drawing.images for drawing in chunk) >= CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _write(folder: str, tasks: list[Task]) -> int:
    for task in tasks:
        (Path(folder) / task.path).write_bytes(task.make(*task.arguments))
    return sum(task.images for task in tasks)


def _written_document(folder: Path) -> dict[str, Any] | None:
    """Return the content of the folder's mark, or None without a readable mark."""
    try:
        document = json.loads((folder / DRAWN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and "files" in document else None


def _count(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder)) - 1  # less the mark


def _refuse_foreign(folder: Path) -> None:
    """Raise unless the folder is missing, empty, or holds only generated files."""
    if folder.exists() and not folder.is_dir():
        raise DatasetError(f"{folder} is a file. Name a folder to generate into.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    document = _written_document(folder)
    if document is None:
        raise DatasetError(f"{folder} holds files that were not generated. Name another folder, or empty this one.")
    if _count(folder) > document["files"]:
        raise DatasetError(f"{folder} holds files beyond the generated ones. Move them away, or name another folder.")
