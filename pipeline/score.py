"""Classify any number of images without a server: a table of answers, as Parquet.

    python -m pipeline.score birds photos/                       a folder and its sub-folders
    python -m pipeline.score birds photos.txt                    a text file, a path or an address a line
    python -m pipeline.score birds shard-000.tar                 the images in a tar shard, or in a folder of them
    python -m pipeline.score birds gs://bucket/photos            a bucket, with its package (gcsfs, s3fs)
    python -m pipeline.score birds photos/ --out photos.scores   another folder for the table
    python -m pipeline.score birds photos/ --cluster local       on a Ray cluster: its own, or one at host:port

Each core runs one process with the server's own decoding, network and settings, so the answers are those of the server.
An image that cannot be read gets a row with its error. A command that was stopped or killed continues: no image is
missing or in two rows. All nodes of a cluster share the current folder and that of the images.
`pandas.read_parquet("scores/birds-1.0/photos")` reads the table.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from handlers.atomic import replacing, write_json
from handlers.errors import ArtifactError
from handlers.golden import GoldenError
from handlers.machine import cores
from pipeline.scoring import chunk, listing, table
from pipeline.scoring.chunk import Chunk, Job
from pipeline.scoring.listing import ImageFile
from serving.errors import ServingError
from serving.store import local_model
from serving.store.local_model import LocalModel
from training.cluster import ClusterError, ClusterPool, check
from training.console import INTERRUPTED, message_of
from training.data.decoders import Pool, PoolBroken
from training.data.progress import plain_console, progress

INSTALL = "install it with .venv/bin/uv pip install --require-hashes -r requirements-log.txt"
FOLDER = Path("scores")
ROWS = (64, 2_048)  # least and most of a part; a killed process answers one again
PARTS = 64  # of a small table, so that all cores have work
# Readers of Parquet pass over names with a "_".
LIST, ABOUT, LOCK, MODEL = "_images.jsonl", "_about.json", "_lock", "_model"


class ScoreError(ServingError):
    """The images cannot be scored; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scores:
    """A finished table: its folder, its number of images, and of those without an answer; seconds of this command."""

    folder: Path
    images: int
    errors: int
    seconds: float
    answered_now: int


def score(
    name: str,
    source: str,
    version: str | None = None,
    *,
    out: Path | None = None,
    processes: int | None = None,
    rows: int | None = None,
    cluster: str | None = None,
    console: Console | None = None,
) -> Scores:
    """Write the table of the answers to all images of a source, or its missing parts.

    `processes` is one a core by default, or one with a GPU. `rows` is the number of images in a part, by default
    between 64 and 2,048; answers depend on it by rounding only. `cluster` is the address of a Ray cluster, or "local".

    Raises:
        ClusterError: the cluster cannot be used.
        ScoreError: the folder holds another table, another command writes it, or pyarrow is missing.
        ListingError: the source has no image, or cannot be read.
        ArchiveError: there is no such model.
        PoolBroken: a process was killed.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ScoreError(f"pyarrow is missing: {INSTALL}")
    if cluster is not None:
        check(cluster)
    source = listing.normal(source)
    started, console = time.perf_counter(), console or plain_console()
    with local_model.opened(name, version) as model:
        folder = out or FOLDER / "-".join(filter(None, [name, model.version])) / Path(source).name
        job = _job(folder.absolute(), name, model)
        with _locked(folder):
            total, rows = _listed(job, source, rows, console)
            if cluster is None:
                pool: Pool | ClusterPool = Pool(processes or (1 if job.on_gpu else cores()))
            else:
                job = _shared(job)
                pool = ClusterPool(cluster, [job.out, job.weights, *_first_image(job)], gpus=int(job.on_gpu))
            with pool:
                images, errors, skipped = _scored(job, total, pool, rows, console)
    return Scores(folder, images, errors, time.perf_counter() - started, images - skipped)


def _job(out: Path, name: str, model: LocalModel) -> Job:
    import torch

    digest = hashlib.sha256(model.weights.read_bytes()).hexdigest()
    settings = json.dumps(model.settings, sort_keys=True)
    on_gpu = model.settings.get("device") != "cpu" and torch.cuda.is_available()
    return Job(out, model.weights, settings, name, model.version, digest, on_gpu)


def _shared(job: Job) -> Job:
    """Return the job with the model of an archive in the folder of the table, where all nodes of a cluster find it."""
    if not job.version:
        return dataclasses.replace(job, weights=job.weights.absolute())
    folder = job.out / MODEL
    if not folder.is_dir():
        with replacing(folder) as part:
            shutil.copytree(job.weights.parent, part)
    return dataclasses.replace(job, weights=folder / job.weights.name)


def _first_image(job: Job) -> list[Path]:
    """Return the first image, if it is a local file of this machine: a node without it lacks the others too."""
    lines = next(listing.read(job.out / LIST, 1), [])
    paths = [Path(ImageFile.parse(line).file) for line in lines]
    return [path for path in paths if not listing.is_url(str(path)) and path.exists()]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise ScoreError(f"another command writes {folder}: wait for it, or name another folder with --out") from error


def _listed(job: Job, source: str, rows: int | None, console: Console) -> tuple[int, int]:
    """List the images of the source unless they were listed before; return their number, and that of a part's rows."""
    names = ("model", "version", "sha256", "settings")
    about = {"source": source, **{name: getattr(job, name) for name in names}} | ({"rows": rows} if rows else {})
    file = job.out / ABOUT
    if file.is_file():
        earlier: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        earlier["source"] = listing.normal(earlier["source"])  # as earlier releases did not write it
        changed = [key for key, value in about.items() if earlier.get(key) != value]
        if changed:
            raise ScoreError(
                f"{job.out} holds a table with another {changed[0]}: delete it, or name another folder with --out"
            )
        return int(earlier["images"]), int(earlier["rows"])
    if any(job.out.glob("part-*.parquet")):
        raise ScoreError(f"{job.out} holds a table of another origin: name another folder with --out")
    with progress(console, "listing images") as advance:
        count = listing.write(source, job.out / LIST, advance)
    rows = rows or min(max(count // PARTS, ROWS[0]), ROWS[1])
    write_json(file, {**about, "rows": rows, "images": count})
    return count, rows


def _scored(job: Job, total: int, pool: Pool | ClusterPool, rows: int, console: Console) -> tuple[int, int, int]:
    """Answer the chunks without a part; return the images, those without an answer, and those of an earlier run."""
    images = errors = skipped = 0
    with progress(console, f"{job.model} {job.version}", total) as advance:

        def missing() -> Iterator[Chunk]:
            nonlocal images, errors, skipped
            for number, lines in enumerate(listing.read(job.out / LIST, rows)):
                part = Chunk(job, number, lines)
                before = table.errors_of(part.path, part.digest)
                if before is None:
                    yield part
                    continue
                images, errors, skipped = images + len(lines), errors + before, skipped + len(lines)
                advance(len(lines))

        for count, failed in pool.map(chunk.score, missing()):
            images, errors = images + count, errors + failed
            advance(count)
    return images, errors, skipped


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a table; return 1 on an error, 130 after an interrupt."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="the model")
    parser.add_argument("source", help="a folder, a text file, a tar shard, or an address that fsspec knows")
    parser.add_argument("--version", help="a version other than the live one")
    parser.add_argument("--out", type=Path, help=f"folder of the table (default {FOLDER}/<model>-<version>/<source>)")
    parser.add_argument("--processes", type=int, help="processes (default: one a core, or one with a GPU)")
    parser.add_argument("--cluster", help="local, or host:port of a Ray cluster")
    options = parser.parse_args(arguments)
    try:
        scores = score(
            options.name,
            options.source,
            options.version or None,
            out=options.out,
            processes=options.processes,
            cluster=options.cluster or None,
        )
    except (ServingError, ArtifactError, GoldenError, ClusterError, PoolBroken, OSError, ValueError) as error:
        print(f"error: {message_of(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    now = (
        f"in {scores.seconds:.1f} s" if scores.answered_now == scores.images else f"{scores.answered_now:,} of them now"
    )
    why = " (column error has the reason)" if scores.errors else ""
    print(f"{scores.folder}: {scores.images:,} images, {scores.errors:,} without an answer{why}, {now}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
