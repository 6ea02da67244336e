"""A process of `make score`: the answers to one chunk of the list of images."""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from handlers.classifier import Classifier
from handlers.device import choose_device
from handlers.errors import RequestError
from handlers.lookahead import map_ahead
from handlers.machine import cores
from handlers.network.aot import is_aot_package
from handlers.requests.labels import Labels
from handlers.service import load
from handlers.settings import Settings
from pipeline.scoring import table
from pipeline.scoring.listing import ImageFile, is_url
from pipeline.scoring.table import Row

READERS, AHEAD = 4, 16  # threads that read from a bucket, and the images that they read ahead
CPU_BATCH, GPU_BATCH = 8, 128  # images


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What all chunks have in common; `settings` is `handler` of model-config.yaml as JSON."""

    out: Path
    weights: Path
    settings: str
    model: str
    version: str
    sha256: str
    on_gpu: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """Lines of the list, and the number of the part that holds their rows."""

    job: Job
    number: int
    lines: list[str]

    @property
    def path(self) -> Path:
        return table.part_of(self.job.out, self.number)

    @property
    def digest(self) -> str:
        """Return the hash of the list of images."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()


def score(chunk: Chunk) -> tuple[int, int]:
    """Write the part of a chunk; return its number of images, and of those without an answer."""
    rows = list(rows_of(chunk.job, [ImageFile.parse(line) for line in chunk.lines]))
    return len(rows), table.write(chunk.path, rows, chunk.digest)


def rows_of(job: Job, images: Sequence[ImageFile]) -> Iterator[Row]:
    """Yield the row of each image."""
    classifier, limit = classifier_of(job)
    size = GPU_BATCH if job.on_gpu else CPU_BATCH
    batches = [images[first : first + size] for first in range(0, len(images), size)]
    about = {"model": job.model, "version": job.version, "sha256": job.sha256}
    for batch, bodies in zip(batches, _bodies(batches, limit), strict=True):
        answers = iter(classifier.classify([body for body in bodies if isinstance(body, bytes)]))
        for image, body in zip(batch, bodies, strict=True):
            answer = body if isinstance(body, OSError) else next(answers)
            yield {"image": _text(image.name), **_columns(answer), **about}


def _bodies(batches: Sequence[Sequence[ImageFile]], limit: int) -> Iterator[list[bytes | OSError]]:
    """Yield the encoded images of each batch; threads read those of a bucket ahead."""

    read = functools.partial(_body, limit=limit)
    if not any(is_url(image.file) for batch in batches for image in batch):
        # Threads that read local files would take a quarter more processor time: they wait for the interpreter.
        yield from ([read(image) for image in batch] for batch in batches)
        return
    with ThreadPoolExecutor(READERS) as readers:
        bodies = map_ahead(readers, read, itertools.chain.from_iterable(batches), AHEAD)
        yield from (list(itertools.islice(bodies, len(batch))) for batch in batches)


def _body(image: ImageFile, limit: int) -> bytes | OSError:
    try:
        return image.read(limit)
    except OSError as error:
        return error


def _columns(answer: dict[str, float] | RequestError | OSError) -> Row:
    if isinstance(answer, OSError):
        return _error(f"cannot be read: {answer.strerror or answer}")
    if isinstance(answer, RequestError):
        return _error(str(answer))
    label, probability = next(iter(answer.items()))
    familiarity = answer.familiarity if isinstance(answer, Labels) else None
    row = {"label": label, "probability": probability, "labels": list(answer.items()), "familiarity": familiarity}
    return row | {"error": None}


def _error(message: str) -> Row:
    return {**dict.fromkeys(("label", "probability", "labels", "familiarity")), "error": message}


def _text(name: str) -> str:
    """Return a file's name as valid text: bytes that are none are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@functools.lru_cache(maxsize=1)
def classifier_of(job: Job) -> tuple[Classifier, int]:
    """Return the classifier of a worker with the job's settings, and the bytes that it reads of an image."""
    document: dict[str, Any] = json.loads(job.settings)
    settings = Settings.read(document)
    able = settings.precision != "int8" and not is_aot_package(job.weights)
    device = choose_device(settings.device, "cuda" if job.on_gpu else "cpu", gpu_capable=able)
    size, threads = (GPU_BATCH, cores()) if job.on_gpu else (CPU_BATCH, 1)
    return load(job.weights, settings, largest=size, device=device, threads=threads), settings.max_bytes
