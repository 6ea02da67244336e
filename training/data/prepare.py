"""Prepare a data set: read its raw images, decode and resize them once, and write what training reads.

    python -m training.data.prepare dataset=fingers raw=<folder> [store=<name>] [augment=2] [exclude=<csv>] [key=value]

The result is data/processed/<store>/ (see `training.data.store`). Unusable files are left out and reported by name:
those that do not decode, have an unknown label, are duplicates, or are not part of the layout. An interrupted run
resumes; a data set that is up to date is not changed. `augment=n` adds n transformed copies of each training image;
`exclude=` leaves out the images in the column `path` of a CSV file.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from handlers.atomic import replace_folder
from handlers.machine import cores
from training.cluster import ClusterPool
from training.console import message_of
from training.data import class_counts, exclusion, store
from training.data.arrays import RowFile
from training.data.decoders import Job, Pool, PoolBroken, chunk_of_node, require_space, run_chunk, write_rows
from training.data.index import EXCLUDED, Index
from training.data.progress import plain_console, progress
from training.data.readers import read
from training.data.recipe import Recipe, digest
from training.data.records import DatasetError, RawDataset
from training.data.unread import unread

_CHUNK = 64
_NAMED = 5  # of the files left out for one reason


def prepare(
    recipe: Recipe,
    folder: Path,
    *,
    processes: int = 1,
    cluster: str | None = None,
    console: Console | None = None,
) -> dict[str, float]:
    """Prepare the data set that `recipe` describes in `folder`; return the seconds of each stage ({}: up to date).

    The images are decoded by `processes` of this machine, or by the nodes of a Ray `cluster`, which all have the raw
    images.

    Raises:
        ClusterError: the cluster cannot be used; the same command resumes.
        DatasetError: the raw data cannot be read; nothing half-written is left behind.
        OSError: the disk is full, or cannot be written.
    """
    console = console or plain_console()
    key = recipe.key()
    partial_folder = folder.with_name(f"{folder.name}.partial")
    if _key_of(folder) == key:
        console.print(f"{folder} is up to date")
        return {}
    partial_folder.mkdir(parents=True, exist_ok=True)
    with _only_one(partial_folder):
        try:
            seconds = _build(recipe, key, partial_folder, processes, cluster, console)
        except DatasetError:
            shutil.rmtree(partial_folder)
            raise
        replace_folder(partial_folder, folder)
    _report(folder, sum(seconds.values()), console)
    return seconds


def _build(
    recipe: Recipe, key: str, folder: Path, processes: int, cluster: str | None, console: Console
) -> dict[str, float]:
    """Fill `folder`, from where an interrupted run with the same key stopped."""
    clock, seconds = time.perf_counter(), {}

    def lap(name: str) -> None:
        nonlocal clock
        clock, seconds[name] = time.perf_counter(), time.perf_counter() - clock

    path = folder / store.INDEX
    raw_dataset = read(recipe.reader, recipe.raw, recipe.reader_options)
    _discard_unless(key, folder)
    with Index(path, writable=True) as index:
        if index.recall("stage") is None:
            index.create(key)
            with progress(console, "reading") as advance:
                for steps in index.add(raw_dataset, recipe.excluded):
                    advance(steps)
            if not index.count("1"):
                raise DatasetError(f"{recipe.raw}: no images; give a folder that holds some with raw=<folder>")
            _refuse_unknown(recipe, index)
            with index.by_path():
                index.add_unread(unread(recipe.raw, raw_dataset.lists, index))
            index.remember("rows", str(index.count()))
            index.remember("stage", "decoding")
        else:
            console.print(f"resuming the interrupted run: {index.count('sha256 NOT NULL'):,} images are done")
        rows = int(index.recall("rows") or 0)
        encoded = _is_encoded(recipe, rows)
        spec = recipe.preprocess()
        images = None if encoded else folder / store.IMAGES
        job = Job(recipe.raw, spec, rows, images, folder / store.MOMENTS, recipe.limits)
        lap("reading")
        if index.recall("stage") == "decoding":
            _decode(index, job, processes, cluster, console, lap)
            index.remember("stage", "finishing")
        _finish(recipe, key, raw_dataset, encoded, index, job, folder)
        lap("finishing")
    return seconds


def _discard_unless(key: str, folder: Path) -> None:
    """Empty the folder of an interrupted run, unless that run was for this key and its index is complete."""
    path = folder / store.INDEX
    if path.exists():
        with Index(path, writable=True) as index:
            if index.recall("key") == key and index.recall("stage") is not None:
                return
    for child in folder.iterdir():
        child.unlink()


def _is_encoded(recipe: Recipe, rows: int) -> bool:
    size = rows * int(np.prod(recipe.shape))
    return recipe.store == "encoded" or (recipe.store == "auto" and size > recipe.max_decoded_gb * 1e9)


def _decode(
    index: Index, job: Job, processes: int, cluster: str | None, console: Console, lap: Callable[[str], None]
) -> None:
    """Decode the remaining images; each chunk is recorded in the index once it is written."""
    images, moments = job.open_images(), job.open_moments()
    files = [file for file in (images, moments) if file is not None]
    require_space(
        job.moments.parent, sum(file.rows * file.row_bytes - file.path.stat().st_blocks * 512 for file in files)
    )
    for file in files:
        file.allocate()
    pending = index.count("row NOT NULL AND sha256 IS NULL")
    if not pending:
        return
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(progress(console, "decoding", pending))
        if cluster is None:
            pool = stack.enter_context(Pool(max(1, min(processes, -(-pending // _CHUNK)))))
            pool.warm()
            chunks = pool.map(partial(run_chunk, job), index.pending(_CHUNK))
        else:
            nodes = stack.enter_context(ClusterPool(cluster, [job.raw]))
            chunks = map(partial(write_rows, job), nodes.map(partial(chunk_of_node, job), index.pending(_CHUNK)))
        lap("starting")
        for chunk in chunks:
            index.finish(chunk)
            advance(len(chunk))
    lap("decoding")


def _finish(
    recipe: Recipe, key: str, raw_dataset: RawDataset, encoded: bool, index: Index, job: Job, folder: Path
) -> None:
    """Leave out duplicates, close the gaps, and write what describes the data set; can be done over again."""
    index.leave_out_duplicates()
    rows = index.count()
    if not rows:
        _, _, names = next(index.left_out())
        raise DatasetError(f"{recipe.raw}: none of the images can be used, first {names[0]}; is this the right reader?")
    classes = raw_dataset.classes
    if not raw_dataset.fixed:
        _refuse_empty_classes(recipe.raw, classes, index)
    _close_gaps(index, [file for file in (job.open_images(), job.open_moments()) if file is not None], rows)
    np.save(folder / store.LABELS, index.column("class", rows))
    index.write_left_out(folder / store.LEFT_OUT)
    document = {
        **_describe(recipe, key, classes, encoded, index, folder),
        "lists": raw_dataset.lists,
        "remarks": [*raw_dataset.remarks, *_unknown(recipe, index)],
    }
    index.seal()
    (folder / store.DOCUMENT).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _close_gaps(index: Index, files: Sequence[RowFile], rows: int) -> None:
    """Move rows into the places of the images left out; the index is renumbered once the files are on the disk."""
    index.plan_moves()
    for file in files:
        for source, target in index.moves():
            file.move(source, target)
        file.sync()
    index.renumber()
    for file in files:
        file.shorten(rows)
        file.sync()
        file.close()


def _refuse_unknown(recipe: Recipe, index: Index) -> None:
    """Refuse an exclusion that excludes nothing: it is probably of another data set."""
    if recipe.excluded and not index.count(f"reason = '{EXCLUDED}'"):
        raise DatasetError(
            f"{recipe.raw}: none of the {len(recipe.excluded):,} images in the file of exclude= is in this data set, "
            f"first {min(recipe.excluded)!r}; give the CSV of this data set, or leave exclude= out"
        )


def _unknown(recipe: Recipe, index: Index) -> list[str]:
    """Return a remark on excluded images that the data set does not have."""
    count = len(recipe.excluded) - index.count(f"reason = '{EXCLUDED}'")
    return [f"{count:,} of {len(recipe.excluded):,} images to exclude are not in this data set"] if count else []


def _refuse_empty_classes(raw: Path, classes: tuple[str, ...], index: Index) -> None:
    """Refuse a class of which nothing can train: a network would answer with a label that it never learnt."""
    present = {number for side, number, _ in index.counts() if side == "train"}
    empty = [name for number, name in enumerate(classes) if number not in present]
    if empty:
        reason = index.first_left_out(classes.index(empty[0]))
        examples = f" ({len(empty)} such classes: {', '.join(map(repr, empty[:5]))})" if len(empty) > 1 else ""
        raise DatasetError(
            f"{raw}: class {empty[0]!r} has no image to train on, {reason}{examples}. "
            "Give it images that can be used, or remove its folder"
        )


def _describe(
    recipe: Recipe, key: str, classes: tuple[str, ...], encoded: bool, index: Index, folder: Path
) -> dict[str, object]:
    rows = index.count()
    counts: dict[str, dict[str, int]] = {"train": {}, "test": {}}
    for side, number, count in index.counts():
        counts[side][classes[number] if number >= 0 else ""] = count
    train = np.flatnonzero(index.column("split = 'train'", rows))
    moments = np.load(folder / store.MOMENTS, mmap_mode="r")
    mean, std = store.statistics(moments, train if len(train) else np.arange(rows), recipe.image_size**2)
    content = index.hash_content()
    content.update(digest({"classes": classes, **recipe.content()}).encode())
    return {
        "name": folder.name.removesuffix(".partial"),
        "images": rows,
        "classes": classes,
        "counts": counts,
        "left_out": {reason: count for reason, count, _ in index.left_out()},
        "mean": mean,
        "std": std,
        "fingerprint": content.hexdigest(),
        "made": recipe.made(),
        "key": key,
        "store": "encoded" if encoded else "decoded",
        "raw": str(recipe.raw.resolve()),
        **recipe.content(),
        **recipe.exclusion(),
        "interpolation": recipe.interpolation,
    }


def _key_of(folder: Path) -> str | None:
    try:
        return store.PreparedDataset.open(folder).key
    except (DatasetError, KeyError):
        return None


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Refuse to work in a folder in which another process works; the lock ends with its process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"{folder} is being prepared by another process; wait until it ends") from None
        yield
    finally:
        os.close(handle)


def _report(folder: Path, seconds: float, console: Console) -> None:
    """Report in a few lines the prepared images, and by name the files that were left out."""
    dataset = store.PreparedDataset.open(folder)
    sides = ", ".join(f"{sum(c.values()):,} {side}" for side, c in dataset.document["counts"].items() if c)
    console.print(
        f"{folder}: {len(dataset):,} images ({sides}), {len(dataset.classes)} classes, in {seconds:.1f} s",
    )
    train = dataset.document["counts"]["train"]
    for line in dataset.document["remarks"]:
        console.print(f"  {line}")
    for line in class_counts.remarks({name: train.get(name, 0) for name in dataset.classes}):
        console.print(f"  {line}")
    with Index(folder / store.INDEX) as index:
        for reason, count, names in index.left_out(_NAMED + 1):
            console.print(f"  left out, {reason}: {count:,}")
            for name in names[:_NAMED]:
                console.print(f"    {_one_line(name)}")
            if len(names) > _NAMED:
                console.print(f"    ... full list in {folder / store.LEFT_OUT}")


def _one_line(text: str) -> str:
    """Return a text, which may hold names of files, with line ends and other control characters written out."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def recipe_from(config: DictConfig) -> Recipe:
    """Return the recipe that a configuration describes.

    Raises:
        DatasetError: a value is not one of those allowed.
    """
    names = {field.name for field in dataclasses.fields(Recipe)} - {"name", "raw", "excluded"}
    node = OmegaConf.to_container(config.dataset, resolve=True)
    assert isinstance(node, dict)
    values = {str(name): value for name, value in node.items() if name in names}
    raw = Path(config.raw or Path("data/raw") / str(config.dataset.name))
    try:
        raw.resolve()
    except (RuntimeError, OSError):  # the first of Python 3.11 and 3.12, the second of later ones
        raise DatasetError(f"{raw} is a link to itself: give a folder with raw=<folder>") from None
    excluded = exclusion.read(Path(config.exclude)) if config.exclude else frozenset()
    return Recipe(name=str(config.store), raw=raw, excluded=excluded, **values)


def run(overrides: Sequence[str], console: Console) -> None:
    """Prepare a data set as the command line says."""
    from training.configuration import compose, store_folder
    from training.data.splits import SplitSpec

    config = compose(overrides)
    folder, processes = store_folder(config), int(config.processes or cores())
    spec = SplitSpec.from_config(config.split)
    if type(config.augment) is not int or config.augment < 0:
        raise DatasetError(f"augment is {config.augment}: set it to 0 or to the number of copies")
    prepare(recipe_from(config), folder, processes=processes, cluster=config.cluster, console=console)
    if store.PreparedDataset.open(folder).encoded:
        from training.data import shards

        shards.ensure(folder, spec, seed=config.seed, console=console)
    from training.data import transformed

    transformed.ensure(folder, spec, config.augment, seed=config.seed, processes=processes, console=console)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return 0
    from training.configuration import ConfigurationError

    console = plain_console()
    try:
        run(arguments, console)
    except (DatasetError, ConfigurationError, PoolBroken, RuntimeError, ValueError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted. Give the same command again to go on where it stopped")
        return 130
    except (OSError, sqlite3.OperationalError) as error:
        return _fail(message_of(error))
    return 0


def _fail(message: str) -> int:
    print(f"error: {_one_line(message)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
