"""Limits the time that a batch's requests take, so that no request keeps the others waiting for long.

A batch is answered as a whole. So the time that its images take is estimated by their headers, before anything
is decoded (`handlers.images.costs`), and measured while they are:

    a request of more pixels than its limit                413
    a request of several images that no batch has time for 413: its images go in several requests
    a cheap request, as nearly all are                     is served, before the others
    an expensive one                                       is served, the cheapest first, as long as the batch has time,
                                                           and at least one of them
    the other expensive ones                               503 with Retry-After: the client sends them again

Where cheap requests come too, now or in the last `RECENT` seconds, one worker of a model at a time serves expensive
ones, so that the others are free, and not in a batch with cheap ones: unless it has served none for `RECENT` seconds.
So a request waits for expensive neighbours at most `batch_seconds`, or as long as one image of the largest size takes
if that is longer. An expensive request that is the only one, or is sent again, is answered.
"""

import contextlib
import dataclasses
import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from handlers.classifier import Answer, Classifier
from handlers.errors import Busy, RequestError, TooLarge
from handlers.images.costs import Cost
from handlers.images.decoding import Buffer
from handlers.requests.labels import Labels

CHEAP = 1 / 10  # of a batch's seconds: a photograph of 24 megapixels by its header
SLACK = 3  # times the estimate: the rates are one machine's
RECENT = 10.0  # seconds
WAITING = "the request takes long to decode, and others wait"

Image = Buffer | RequestError


@dataclasses.dataclass(slots=True)
class _Request:
    images: Sequence[Image]
    headers: list[Cost | RequestError] = dataclasses.field(default_factory=list)
    answers: list[Answer] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def costs(self) -> list[Cost]:
        return [header for header in self.headers if isinstance(header, Cost)]

    @property
    def pixels(self) -> int:
        return sum(cost.pixels for cost in self.costs)

    @property
    def readable(self) -> Iterator[Buffer]:
        """Yield the images whose headers have no error."""
        for image, header in zip(self.images, self.headers, strict=True):
            if isinstance(header, Cost) and not isinstance(image, RequestError):
                yield image

    @property
    def encoded(self) -> int:
        return sum(len(image) for image in self.images if not isinstance(image, RequestError))

    def refuse(self, error: RequestError) -> None:
        self.answers = [error] * len(self.images)

    def answer(self, answers: Iterator[Answer]) -> None:
        """Take the next answers for the readable images; a request with a Busy image is refused."""
        self.answers = [next(answers) if isinstance(header, Cost) else header for header in self.headers]
        for answer, header in zip(self.answers, self.headers, strict=True):
            if isinstance(answer, Labels) and isinstance(header, Cost):
                answer.pixels = header.pixels
        busy = next((answer for answer in self.answers if isinstance(answer, Busy)), None)
        if busy is not None:
            self.refuse(busy)


class Turn:
    """The right to serve expensive requests: one of the workers that name a file has it; without a file, each has."""

    def __init__(self, path: Path | None) -> None:
        self._file: int | None = None
        if path is not None:
            with contextlib.suppress(OSError):  # no such file
                self._file = os.open(path, os.O_RDONLY)  # open as long as the worker runs

    def take(self) -> bool:
        """Take it, and return whether no other worker has it."""
        try:
            if self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def give(self) -> None:
        """Leave it to others."""
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)


class Budget:
    """The time of one worker.

    Args:
        request_pixels: pixel limit for the images of one request, summed.
        batch_seconds: of a processor, that decoding the images of a batch may take.
        lock: a file by which the workers of a model know of each other.
        clock: in seconds.
    """

    def __init__(
        self,
        request_pixels: int,
        batch_seconds: float,
        *,
        lock: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.request_pixels, self.batch_seconds, self._clock = request_pixels, batch_seconds, clock
        self._turn = Turn(lock)
        self._cheap = self._expensive = -math.inf  # when the latest of each was served

    def classify(self, classifier: Classifier, batch: Sequence[Sequence[Image]]) -> list[list[Answer]]:
        """Return the answers to the images of each request, or the same error for all where the request is refused."""
        requests = [_Request(images) for images in batch]
        spent = self._read_headers(classifier, requests)
        served = self._admitted([request for request in requests if not request.answers], spent)
        try:
            self._answer(classifier, served)
        finally:
            if any(self._is_expensive(request) for request in served):
                self._expensive = self._clock()
                self._turn.give()
        return [request.answers for request in requests]

    def _is_expensive(self, request: _Request) -> bool:
        return request.seconds > CHEAP * self.batch_seconds

    def _read_headers(self, classifier: Classifier, requests: Sequence[_Request]) -> float:
        """Estimate what each request takes, or refuse it; return the seconds that this took, of a processor."""
        batch_start = time.thread_time()
        # Headers that take long are in many pieces: the requests of the fewest bytes first.
        for request in sorted(requests, key=lambda request: request.encoded):
            start = time.thread_time()
            if start - batch_start > self.batch_seconds:
                request.refuse(Busy("the headers of this batch's images take longer to read than a worker may"))
                continue
            request.headers = [_header(classifier, image) for image in request.images]
            reading = time.thread_time() - start
            if request.costs:  # otherwise all is done
                request.seconds = max(reading, sum(cost.seconds for cost in request.costs))
            self._refuse_too_large(request)
        return time.thread_time() - batch_start

    def _refuse_too_large(self, request: _Request) -> None:
        """Refuse a request of too many pixels, or of several images that no batch has time for."""
        if request.pixels > self.request_pixels:
            request.refuse(
                TooLarge(
                    f"the images of the request have {request.pixels} pixels together, more than the limit of "
                    f"{self.request_pixels}: send them in several requests"
                )
            )
        elif len(request.costs) > 1 and request.seconds > self.batch_seconds:
            request.refuse(
                TooLarge(
                    f"the images of the request take about {request.seconds:.2g} s to decode, more than the limit "
                    f"of {self.batch_seconds:g} s: send them in several requests"
                )
            )

    def _admitted(self, requests: Sequence[_Request], spent: float) -> list[_Request]:
        """Return the requests to serve, the cheapest first, and refuse the others; `spent` seconds are used already."""
        ordered = sorted(requests, key=lambda request: request.seconds)
        cheap = [request for request in ordered if not self._is_expensive(request)]
        expensive = ordered[len(cheap) :]
        now = self._clock()
        self._cheap = now if cheap else self._cheap
        if expensive and not self._serves_expensive(now, beside_cheap=bool(cheap)):
            for request in expensive:
                request.refuse(Busy(WAITING, request.seconds))
            return cheap
        return cheap + self._within_time(expensive, spent + sum(request.seconds for request in cheap))

    def _serves_expensive(self, now: float, *, beside_cheap: bool) -> bool:
        """Return whether this worker serves expensive requests now; takes the turn if it may."""
        if beside_cheap and now - self._expensive < RECENT:
            return False
        return self._turn.take() or now - self._cheap >= RECENT

    def _within_time(self, expensive: Sequence[_Request], spent: float) -> list[_Request]:
        """Return the first of the expensive requests, and more while the batch has time; refuse the others."""
        served: list[_Request] = []
        for request in expensive:
            if served and spent + request.seconds > self.batch_seconds:
                request.refuse(Busy(WAITING, spent))
                continue
            served.append(request)
            spent += request.seconds
        return served

    def _answer(self, classifier: Classifier, requests: Sequence[_Request]) -> None:
        """Answer requests in this order; one for which no time is left is Busy as a whole."""
        images = [image for request in requests for image in request.readable]
        expected = sum(request.seconds for request in requests)
        answers = iter(classifier.classify(images, seconds=SLACK * max(self.batch_seconds, expected)))
        for request in requests:
            request.answer(answers)


def _header(classifier: Classifier, image: Image) -> Cost | RequestError:
    if isinstance(image, RequestError):
        return image
    try:
        return classifier.decoder.cost(image)
    except RequestError as error:
        return error.with_traceback(None)
