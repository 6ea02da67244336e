"""The handler with a clock at each of its stages, for `benchmarks.profile`, which puts this file into an archive.

Each batch is one line of JSON in SIGHTLINE_PROFILE/<process>.jsonl: the requests' numbers (their header `profile-id`),
when its first byte arrived, when the handler began and ended, when its answer was sent, and the seconds of each
stage.
All processes of a machine share one clock (`time.monotonic`), so the times of a client can be compared with these.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handlers.images.prefetch import Prefetcher
from handlers.sightline_handler import ImageHandler, Row

FOLDER_VARIABLE, HEADER = "SIGHTLINE_PROFILE", "profile-id"


class ProfiledHandler(ImageHandler):
    """Answers as `ImageHandler` does."""

    def initialize(self, context: Any) -> None:
        """Load the artifact, and put clocks around the stages and around the worker's reading of a batch."""
        super().initialize(context)
        self._spans: list[tuple[str, float]] = []  # decoding threads append in parallel
        self._batch: dict[str, Any] = {}
        self._first: float | None = None
        self._file = open(Path(os.environ[FOLDER_VARIABLE]) / f"{os.getpid()}.jsonl", "a", buffering=1)  # noqa: SIM115
        classifier = self.service.classifier
        decoder: Any = classifier.decoder
        decoder.decode = self._timed("decode and resize", decoder.decode)
        if classifier.ahead is not None:
            classifier.ahead = Prefetcher(decoder.decode, classifier.device)
        reader: Any = getattr(decoder, "others", decoder)  # of a GPU's: the one on the CPU
        used: Any = sys.modules[type(reader).__module__]
        used.decode = self._timed("decode", used.decode)
        reader.preprocess.resize = self._timed("resize", reader.preprocess.resize)
        classifier.preprocess.write = self._timed("normalize", classifier.preprocess.write)  # type: ignore[method-assign]
        classifier.preprocess.normalize = self._timed("normalize", classifier.preprocess.normalize)  # type: ignore[method-assign]
        engine = type(classifier.engine)
        engine.__call__ = self._timed("network", engine.__call__)  # type: ignore[method-assign]
        classifier.encode = self._timed("answer", classifier.encode)  # type: ignore[method-assign]
        self.service._reply = self._timed("answer", self.service._reply)  # type: ignore[method-assign]
        # The worker's loop: it asks for the next batch when it has sent an answer.
        worker: Any = sys.modules["__main__"]
        worker.retrieve_msg = self._between_batches(worker.retrieve_msg)
        messages: Any = sys.modules["ts.protocol.otf_message_handler"]
        messages._retrieve_buffer = self._noting_the_first(messages._retrieve_buffer)

    def handle(self, data: list[Row], context: Any) -> list[bytes]:
        """Return the answers, and record the times until they are sent."""
        self._spans.clear()
        start = time.monotonic()
        answers = super().handle(data, context)
        ended = time.monotonic()
        ids = [context.get_all_request_header(index).get(HEADER) for index in range(len(data))]
        self._batch = {"ids": ids, "first": self._first, "began": start, "ended": ended}
        return answers

    def _timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.monotonic()
            result = work(*arguments, **options)
            self._spans.append((name, time.monotonic() - start))
            return result

        return timed

    def _between_batches(self, retrieve: Callable[..., Any]) -> Callable[..., Any]:
        def retrieved(connection: Any) -> Any:
            sent = time.monotonic()
            if self._batch:
                stages: dict[str, float] = {}
                for name, seconds in self._spans:
                    stages[name] = stages.get(name, 0.0) + seconds
                self._file.write(json.dumps({**self._batch, "sent": sent, "stages": stages}) + "\n")
            self._batch, self._first = {}, None
            return retrieve(connection)

        return retrieved

    def _noting_the_first(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def noted(connection: Any, length: int) -> Any:
            content = read(connection, length)
            if self._first is None:
                self._first = time.monotonic()
            return content

        return noted
