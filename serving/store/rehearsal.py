"""The rehearsal of an archive: unpack, load and ask it, as TorchServe's worker does.

The archived handler runs in a separate process (serving/store/stand_in_worker.py), in the unpacked archive and with
TorchServe's loader, without access to this repository. It gets a request for its description, the golden images, and a
body that is not an image, in batches of the server's size.
"""

import base64
import dataclasses
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from handlers import golden
from handlers.errors import RequestError
from handlers.golden import Golden, GoldenError
from handlers.images.limits import DEFAULT_LIMITS, Limits
from serving.host import resources, state
from serving.store import model_config, model_store
from serving.store.model_store import Archive, ArchiveError

WORKER = Path(__file__).with_name("stand_in_worker.py")
NO_IMAGE = b"This is not an image."
NOT_AN_IMAGE = 400
SLOW_IMAGE = 0.04  # seconds: below the cost at which a worker puts an image off (handlers.budget)
HIDDEN = ("PYTHONPATH", "PYTHONHOME", "TS_CONFIG_FILE")  # of our environment, from the worker


@dataclasses.dataclass(frozen=True, slots=True)
class Rehearsal:
    """The result of a rehearsal: the precision, the largest difference of the golden answers, and the total seconds.

    `pixels` is False for an archive of an older release: the network's input is not compared then.
    """

    precision: str
    images: int
    difference: float
    seconds: float
    pixels: bool


@dataclasses.dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def document(self) -> dict[str, Any]:
        """Return the answer; ValueError if it is not a JSON object."""
        document = json.loads(self.body)
        if not isinstance(document, dict):
            raise ValueError("its answer is not a JSON object")
        return document


class _WorkerFailure(Exception):
    """A worker of the server would fail in the same way."""


def rehearse(archive: Archive) -> Rehearsal:
    """Load an archive as a worker would, and compare its answers with its golden images.

    It may take as long as `startupTimeout` of its model-config.yaml says. On a machine with a GPU it runs there, as the
    server would; CUDA_VISIBLE_DEVICES= rehearses for a server without one.

    Raises:
        ArchiveError: it cannot be unpacked, does not load, or its answers differ; the message says why.
    """
    start_time = time.monotonic()
    config = archive.model_config()
    try:
        with archive.unpacked() as weights:
            golden_images = _golden(weights, model_store.limits_of(config))
            bodies = [golden_images[0].image, NO_IMAGE, *(image.image for image in golden_images[1:])]
            description, first, no_image, *later = _ask(archive, weights.parent, config, bodies)
        if no_image.status != NOT_AN_IMAGE:
            raise _WorkerFailure(f"a body that is not an image is answered with {no_image.status}, not {NOT_AN_IMAGE}")
        document = description.document()
        precision, classes = str(document["precision"]), list(document["classes"])
        replies = zip(golden_images, [first, *later], strict=True)
        difference = max(_difference(image, reply, classes, precision) for image, reply in replies)
    except (_WorkerFailure, GoldenError, KeyError, TypeError, ValueError) as error:
        kind = "" if isinstance(error, _WorkerFailure | GoldenError) else f"{type(error).__name__}: "
        raise ArchiveError(f"{archive.name} {archive.version} cannot be served: {kind}{error}") from error
    pixels = all(image.pixels for image in golden_images)
    return Rehearsal(precision, len(golden_images), difference, time.monotonic() - start_time, pixels)


def _golden(weights: Path, limits: Limits) -> list[Golden]:
    path = weights.with_name(golden.FILE)
    images = golden.read(path) if path.is_file() else []
    if not images:
        raise _WorkerFailure("it holds no golden images. Export the run again (make train), and archive it")
    golden_images = [image for image in images if image.within(limits)]
    if not golden_images:
        raise _WorkerFailure("none of its golden images is within handler.max_bytes and handler.max_pixels: raise them")
    return golden_images


def _difference(image: Golden, reply: _Reply, classes: Sequence[str], precision: str) -> float:
    if reply.status != 200:
        raise _WorkerFailure(f"golden image {image.name} is answered with {reply.status}: {reply.body.decode()[:200]}")
    return golden.compare(image, reply.document(), classes, precision)


def _ask(archive: Archive, folder: Path, config: Mapping[str, Any], bodies: Sequence[bytes]) -> list[_Reply]:
    """Return the worker's answers: its description, and one for each body."""
    limit = config.get("startupTimeout", model_config.DEFAULTS["startupTimeout"])
    with tempfile.TemporaryDirectory(prefix="sightline-") as scratch:
        output, last_line = _run(Path(scratch), folder, _job(archive, config, bodies), limit)
    if "error" in output:
        raise _WorkerFailure(output["error"])
    replies = [reply for message in output["messages"] for reply in _replies(base64.b64decode(message))]
    for reply in replies:
        if reply.status == 503:  # only the log says why
            raise _WorkerFailure(f"it fails on a batch: {last_line}")
        if (version := reply.headers.get("model-version")) != archive.version:
            raise _WorkerFailure(f"its answers name version {version}")
    return replies


def _job(archive: Archive, config: Mapping[str, Any], bodies: Sequence[bytes]) -> dict[str, Any]:
    """Return the input of the stand-in worker: the archive's handler, and the batches to answer."""
    size = max(1, int(config.get("batchSize", 1)))
    batches = [
        [{"headers": {}, "body": base64.b64encode(body).decode()} for body in batch] for batch in _batches(bodies, size)
    ]
    with archive.opened() as file:
        handler = archive.manifest(file)["handler"]
    return {
        "name": archive.name,
        "handler": handler,
        "batch_size": size,
        "gpu": 0 if resources.gpus() else None,
        "batches": [[{"headers": {"describe": "True"}, "body": ""}], *batches],
    }


def _batches(images: Sequence[bytes], size: int) -> list[list[bytes]]:
    """Return images in batches, in order; a slow image gets its own batch: a worker puts it off beside others."""
    batches: list[list[bytes]] = []
    has_room = False
    for image in images:
        is_slow = _is_slow(image)
        if not has_room or is_slow or len(batches[-1]) == size:
            batches.append([])
        batches[-1].append(image)
        has_room = not is_slow
    return batches


def _is_slow(image: bytes) -> bool:
    from handlers.images.costs import cost_of  # imports torch, which most commands need not wait for

    try:
        return cost_of(image, DEFAULT_LIMITS).seconds > SLOW_IMAGE
    except RequestError:
        return False


def _run(scratch: Path, folder: Path, job: Mapping[str, Any], limit: float) -> tuple[dict[str, Any], str]:
    """Run the worker in `folder`, for at most `limit` seconds; return its output, and the last line of its log."""
    source, target, log = scratch / "job.json", scratch / "output.json", scratch / "worker.log"
    source.write_text(json.dumps(job))
    environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    environment["PYTHONPATH"] = str(folder)
    command = [sys.executable, "-P", str(WORKER), str(source), str(target)]
    with (
        open(log, "wb") as sink,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        ) as process,
    ):
        code = _wait(process, limit)
    last_line = _last_line(log)
    if code or not target.is_file():
        ending = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        raise _WorkerFailure(f"its process {ending}: {last_line}")
    output: dict[str, Any] = json.loads(target.read_text())
    return output, last_line


def _wait(process: subprocess.Popen[bytes], limit: float) -> int:
    """Return the exit status of a process; end it with its children if it takes more than `limit` seconds."""
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired as error:
        raise _WorkerFailure(f"it is not ready within {limit} s, its startupTimeout") from error
    finally:
        if process.poll() is None:
            state.end_tree(psutil.Process(process.pid), timeout=0.5)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def _replies(message: bytes) -> list[_Reply]:
    """Return the answers in a worker's message for a batch (ts.protocol.otf_message_handler)."""
    stream = io.BytesIO(message)

    def number() -> int:
        return int(struct.unpack("!i", stream.read(4))[0])

    def field() -> bytes:
        return stream.read(number())

    number(), field()  # status and message of the batch
    replies = []
    while (length := number()) >= 0:
        stream.read(length), field()  # the request's id, the content type
        status, _ = number(), field()
        headers = {field().decode(): field().decode() for _ in range(number())}
        replies.append(_Reply(status, headers, field()))
    return replies
