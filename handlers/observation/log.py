"""The prediction log of one worker: a line of JSON for each logged image; it never costs an answer.

A request leaves its images in a queue, and one thread writes them. While the queue is full or the disk fails, images
are dropped and counted.
"""

import contextlib
import datetime as dt
import hashlib
import json
import logging
import os
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

from handlers.observation import mirror
from handlers.observation.counters import LOG_REASONS
from handlers.observation.mirror import Mirror
from handlers.observation.segments import VARIABLE, Segments
from handlers.requests.labels import Labels, Measured
from handlers.requests.request import RawRequest
from handlers.sampling import REQUEST_ID_HEADER, is_selected
from handlers.settings import Settings

PREDICTION_ID_HEADER = "x-prediction-id"  # of a response to a request that is logged
REQUEST_ID = re.compile(r"[!-~]{1,128}")
TRACE_HEADER = "traceparent"
TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")  # w3.org/TR/trace-context
MEGABYTE = 1_000_000
MOST_WAITING, MOST_BYTES = 1000, 64 * MEGABYTE  # images in the queue
PERIOD = 0.2  # seconds that the thread waits for further images
QUEUE, DISK = LOG_REASONS


class Entry(NamedTuple):
    """One answered image; `place` is that among the images of its request, `labels` are those that were answered."""

    time: float
    request_id: str
    trace_id: str
    place: int
    labels: Mapping[str, float]
    answer: Labels
    measured: Measured
    image: bytes | bytearray


class Log:
    """The log of this process.

    Args:
        folder: of all models.
        dropped: is called with the reason for each image that is not logged, in the thread too.
        copies: for a trial of another version; the requests that it asks for are logged too, without their images.
    """

    def __init__(
        self, folder: Path, name: str, version: str, settings: Settings, dropped: Callable[[str], None],
        copies: Mirror | None = None,
    ) -> None:  # fmt: skip
        self._copies = copies
        self._share, self._with_images = settings.log, settings.log_images
        self._about = {"model": name, "version": version}
        self._segments = Segments(folder / name, settings.log_megabytes * MEGABYTE, settings.log_files)
        self._dropped = dropped
        self._queue: deque[Entry] = deque()
        # Two sums, each of one thread: a single one would need a lock.
        self._bytes_added = self._bytes_written = 0
        self._filled, self._closed = threading.Event(), threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="prediction log", daemon=True)
        self._thread.start()

    @classmethod
    def of_environment(cls, name: str, version: str, settings: Settings, dropped: Callable[[str], None]) -> Self | None:
        """Return a log in the server's folder; None without such a folder, or if nothing can ask for one."""
        folder, copies = os.environ.get(VARIABLE), os.environ.get(mirror.VARIABLE)
        if not folder or not (settings.log or copies):
            return None
        mirrored = Mirror(Path(copies), name, version) if copies else None
        return cls(Path(folder), name, version, settings, dropped, mirrored)

    def has(self, request_id: str) -> bool:
        """Return whether a request is logged: the same in each worker."""
        return is_selected(request_id, self._share) or self._is_copied(request_id)

    def _is_copied(self, request_id: str) -> bool:
        return self._copies is not None and self._copies.has(request_id)

    def add(
        self, request_id: str, answers: Sequence[Any], images: Sequence[Any], top_k: int | None, trace_id: str = ""
    ) -> None:
        """Queue the answered images of a request; `answers` that are errors are passed over."""
        now = time.time()
        for place, (answer, image) in enumerate(zip(answers, images, strict=True)):
            if not isinstance(answer, Labels):
                continue
            waiting = self._bytes_added - self._bytes_written
            if len(self._queue) >= MOST_WAITING or waiting + len(image) > MOST_BYTES:
                self._dropped(QUEUE)
                continue
            self._bytes_added += len(image)
            labels = dict(islice(answer.items(), top_k))
            # Measured here: the queue holds no decoded images.
            self._queue.append(Entry(now, request_id, trace_id, place, labels, answer, answer.measure(), image))
        if self._queue and not self._filled.is_set():
            self._filled.set()

    def close(self) -> None:
        """Write the queue and end the thread."""
        self._closed.set()
        self._filled.set()
        self._thread.join()
        self._segments.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._filled.wait()
            self._closed.wait(PERIOD)
            self._filled.clear()
            while self._queue:
                # One by one: a system call lets requests continue, which wait for the interpreter.
                entry = self._queue.popleft()
                self._write(entry)
                self._bytes_written += len(entry.image)

    def _write(self, entry: Entry) -> None:
        sha256 = hashlib.sha256(entry.image).hexdigest()
        try:
            line = json.dumps(self._row(entry, sha256)).encode() + b"\n"
            with_image = self._with_images and is_selected(entry.request_id, self._share)
            self._segments.append(line, sha256, entry.image if with_image else None)
            self._failing = False
            self._copy(line, entry)
        except (OSError, ValueError, OverflowError) as error:  # ... of a time that no calendar has
            self._segments.close()
            self._dropped(DISK)
            if not self._failing:
                logging.getLogger(__name__).warning("predictions are not logged at present: %s", error)
            self._failing = True

    def _copy(self, line: bytes, entry: Entry) -> None:
        if self._copies is not None and self._copies.has(entry.request_id):
            with contextlib.suppress(OSError):  # a full disk costs the copy and nothing else
                self._copies.add(line, entry.image)

    def _row(self, entry: Entry, sha256: str) -> dict[str, Any]:
        answer, (statistics, embedding) = entry.answer, entry.measured
        label, confidence = next(iter(answer.items()))
        columns = statistics._asdict() if statistics is not None else {}
        return {
            "time": dt.datetime.fromtimestamp(entry.time, dt.UTC).isoformat(timespec="milliseconds"),
            "request_id": entry.request_id,
            "trace_id": entry.trace_id or None,
            "image": entry.place,
            **self._about,
            "label": label,
            "confidence": confidence,
            "labels": entry.labels,
            "familiarity": answer.familiarity,
            **{name: round(value, 5) for name, value in columns.items()},
            "pixels": answer.pixels or None,
            "bytes": len(entry.image),
            "sha256": sha256,
            "embedding": [round(value, 4) for value in embedding],
        }


def request_id_of(raw: RawRequest) -> str:
    """Return the client's own id of a request, else the server's, else a new one."""
    text = raw.headers.get(REQUEST_ID_HEADER, "")
    return text if REQUEST_ID.fullmatch(text) else raw.request_id or uuid.uuid4().hex


def trace_id_of(raw: RawRequest) -> str:
    """Return the id of the trace that a request belongs to, "" if it names none."""
    trace = TRACE.fullmatch(raw.headers.get(TRACE_HEADER, ""))
    return trace[1] if trace is not None else ""
