"""A served model, behind any server: requests in, replies out.

A client sends, and gets:

    one image as the body, of any content type         {"label": probability, ...}, best first
    a form with one file                               the same
    a form with several files                          {"predictions": [...]}, in the order sent
    {"instances": [{"b64": "..."}, ...]}               {"predictions": [...]}, in the order sent
    {"inputs": [...]}                                  tensors: `handlers.requests.tensors`
    one of these, to explain                           where the model sees the first label: a heat map, JSON or PNG
    the header `describe: True`                        the model's classes, sizes, version and precision

Text fields beside the files of a form are no images. `Content-Encoding: gzip` and `deflate` are unpacked. A parameter
of the address or a text field `top_k`, or the header `top-k`, asks for fewer labels than the settings have. The same
with `familiarity` asks for entries {"labels": {"label": probability, ...}, "familiarity": 0.372}.

An entry of predictions is {"label": probability, ...}, or {"error": {"code", "type", "message"}} for an image that
cannot be read. If none of a request's images can be read, the request itself fails: status and body are those of
its first image. A failing request costs the others of its batch nothing. While others wait, one that takes long may get
503 with the header `retry-after` (see `handlers.budget`). Every answer is JSON, with the model's version in the header
`model-version`, and the commit that its archive was built from in `model-commit` (see `handlers.origin`); the header
`x-image-familiarity` says of each image how familiar it is (see `handlers.network.familiarity`), if the archive has a
bank of training images. The header `x-prediction-id` is that of a request in the prediction log: the client's own
`x-request-id`, else the server's.

An explanation (see `handlers.explanation.explainer`) is {"label", "probability", "method", "size", "map"}, several are
{"explanations": [...]}; a client that accepts image/png first gets a picture. The header or text field `label` asks
for another label than the first one.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from handlers import golden
from handlers.budget import Budget
from handlers.classifier import Answer, Classifier
from handlers.device import DeviceError, choose_device
from handlers.errors import Busy, RequestError
from handlers.explanation.explainer import Explainer, Explanation
from handlers.golden import GoldenError
from handlers.machine import THREADS_VARIABLE, cores
from handlers.network.aot import is_aot_package
from handlers.network.precision import candidates
from handlers.observation.log import PREDICTION_ID_HEADER, request_id_of, trace_id_of
from handlers.observation.observer import Observer, Outcome
from handlers.observation.slot import UNCOUNTED_HEADER
from handlers.origin import commit_of
from handlers.requests import payload, tensors
from handlers.requests.labels import Labels, familiarity_header, shown
from handlers.requests.payload import Explained, ImageRequest
from handlers.requests.request import RawRequest, read
from handlers.settings import Settings

CONTENT_TYPE, PNG_TYPE = "application/json", "image/png"
VERSION_HEADER, COMMIT_HEADER = "model-version", "model-commit"
RETRY_HEADER = "retry-after"  # seconds
FAMILIARITY_HEADER = "x-image-familiarity"


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """The reply to one request: a JSON document, and the error that gives its HTTP status if it is not 200.

    `png` is the body in place of the document. `familiarity` is that of each image, None for one without an answer;
    empty if the archive has no bank. `request_id` is empty if the request is not logged.
    """

    document: dict[str, Any]
    error: RequestError | None = None
    familiarity: Sequence[float | None] = ()
    png: bytes = b""
    request_id: str = ""

    @property
    def code(self) -> int:
        """Return the HTTP status."""
        return self.error.code if self.error else 200

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that this reply has besides those of every reply."""
        headers = {RETRY_HEADER: str(self.error.retry_after)} if isinstance(self.error, Busy) else {}
        if self.png:
            headers["content-type"] = PNG_TYPE
        if self.request_id:
            headers[PREDICTION_ID_HEADER] = self.request_id
        return headers | ({FAMILIARITY_HEADER: familiarity_header(self.familiarity)} if self.familiarity else {})

    @property
    def body(self) -> bytes:
        """Return the picture, or the document as it is sent."""
        return self.png or json.dumps(self.document).encode()


class Service:
    """One artifact with the settings of its archive, warmed up and checked against its golden images.

    Args:
        weights: the artifact; golden images and provenance lie beside it.
        config: its model-config.yaml, with TorchServe's names: `handler`, `minWorkers`, `batchSize`.
        version: of the model.
        name: of the model, for its metrics.
        device: that the server gave to this worker; the setting `handler.device` has the last word.

    Raises:
        ValueError: model-config.yaml has a setting that is unknown or wrong.
        DeviceError: it asks for a GPU, and there is none that computes.
        ArtifactError: the artifact cannot be read.
        GoldenError: the answer to a golden image differs from the exported one.
    """

    def __init__(
        self, weights: Path, config: Mapping[str, Any], *, version: str, name: str = "", device: str = "cpu"
    ) -> None:
        self.settings = Settings.read(config.get("handler"))
        self.headers = {"content-type": CONTENT_TYPE, VERSION_HEADER: version}
        if commit := commit_of(weights):
            self.headers[COMMIT_HEADER] = commit
        # All workers of a version have the same artifact.
        self.budget = Budget(self.settings.request_pixels, self.settings.batch_seconds, lock=weights)
        largest = int(config.get("batchSize", 1)) * self.settings.max_images
        workers = threads(config.get("minWorkers"))
        # int8 and networks that are compiled ahead of time run on a CPU only.
        gpu_capable = self.settings.precision != "int8" and not is_aot_package(weights)
        target = choose_device(self.settings.device, device, gpu_capable=gpu_capable)
        self.classifier = load(weights, self.settings, largest=largest, device=target, threads=workers)
        self.explainer = Explainer(self.classifier, weights)
        classes, reference = self.classifier.spec.classes, self.classifier.reference
        width = len(reference.scale) if reference else 0
        self.name = name or weights.parent.name
        self.observer = Observer.of_environment(self.name, version, classes, width, settings=self.settings)
        self.classifier.observes = self.observer is not None

    def answer(self, batch: Sequence[RawRequest]) -> list[Reply]:
        """Return the reply to each request of a batch, in order; all their images form one batch."""
        try:
            return self._answer(batch)
        except Exception:
            if self.observer is not None:
                self.observer.failed(sum(UNCOUNTED_HEADER not in raw.headers for raw in batch))
            raise

    def _answer(self, batch: Sequence[RawRequest]) -> list[Reply]:
        stages = self.classifier.stages
        stages.begin()
        requests = [self._read(raw) for raw in batch]
        answers = self.budget.classify(self.classifier, [_images(request) for request in requests])
        self.explainer.allow(self.settings.batch_seconds)
        ids = map(self._id_if_logged, batch)
        replies = [self._reply(*parts) for parts in zip(requests, answers, ids, strict=True)]
        stages.end("encode")
        if self.observer is not None:
            outcomes = map(_outcome, batch, requests, answers, replies)
            self._observe(self.observer, [outcome for outcome in outcomes if outcome is not None])
        return replies

    def _observe(self, observer: Observer, outcomes: Sequence[Outcome]) -> None:
        if not outcomes:
            return
        try:
            observer.batch(outcomes, self.classifier.stages.seconds)
        except Exception:  # a fault in counting costs no answer
            logging.getLogger(__name__).exception("metrics end: a fault while counting a batch (possible bug)")
            self.observer = None
            self.classifier.observes = False

    def _read(self, raw: RawRequest) -> ImageRequest | RequestError | None:
        """Return the images of one request, its error, or None if it asks for the description."""
        if raw.headers.get("describe") == "True":
            return None
        try:
            request = read(raw, self.settings)
            if request.explained is not None:
                self.explainer.check(request.explained.label)
            return request
        except RequestError as error:
            return error.with_traceback(None)

    def _id_if_logged(self, raw: RawRequest) -> str:
        """Return the id of a request for the prediction log, empty for one that is not logged."""
        log = self.observer.log if self.observer is not None else None
        if log is None or UNCOUNTED_HEADER in raw.headers:
            return ""
        request_id = request_id_of(raw)
        return request_id if log.has(request_id) else ""

    def _reply(self, request: ImageRequest | RequestError | None, answers: list[Answer], request_id: str = "") -> Reply:
        if request is None:
            return Reply(self._description())
        error = request if isinstance(request, RequestError) else _error_of(request, answers)
        if error is not None:
            return Reply(error.body(), error)
        assert isinstance(request, ImageRequest)
        values = [answer.familiarity if isinstance(answer, Labels) else None for answer in answers]
        familiarity = values if self.classifier.familiarity else ()
        if request.explained is not None:
            self.classifier.stages.end("encode")
            reply = self._explained(request, request.explained, answers)
            self.classifier.stages.end("explain")
            return dataclasses.replace(reply, familiarity=() if reply.error else familiarity)
        if request.tensors is not None:
            labels = [answer for answer in answers if isinstance(answer, Labels)]
            version = self.headers[VERSION_HEADER]
            document = tensors.response(request, labels, model=self.name, version=version)
            return Reply(document, familiarity=familiarity, request_id=request_id)
        entries = [_entry(answer, request) for answer in answers]
        document = {"predictions": entries} if request.listed else entries[0]
        return Reply(document, familiarity=familiarity, request_id=request_id)

    def _explained(self, request: ImageRequest, explained: Explained, answers: Sequence[Answer]) -> Reply:
        """Return the explanations of images, or the error of a request of which one is Busy or none can be read."""
        explanations = [
            answer if isinstance(answer, RequestError) else self.explainer.explain(image, explained.label)
            for image, answer in zip(request.images, answers, strict=True)
        ]
        errors = [explanation for explanation in explanations if isinstance(explanation, RequestError)]
        errors.sort(key=lambda error: not isinstance(error, Busy))
        if errors and (len(errors) == len(explanations) or isinstance(errors[0], Busy)):
            return Reply(errors[0].body(), errors[0])
        first = explanations[0]
        if explained.png and isinstance(first, Explanation):
            return Reply({}, png=first.png())
        entries = [
            {"error": explanation.body()} if isinstance(explanation, RequestError) else explanation.document()
            for explanation in explanations
        ]
        return Reply({"explanations": entries} if request.listed else entries[0])

    def _description(self) -> dict[str, Any]:
        """Return the part of the description that a client needs; the origin of the model is for the operator."""
        return {
            "classes": list(self.classifier.spec.classes),
            "preprocess": {"image_size": self.classifier.spec.preprocess.image_size},
            "version": self.headers[VERSION_HEADER],
            "top_k": self.classifier.top_k,
            "precision": self.classifier.engine.precision,
        }


def load(
    weights: Path, settings: Settings, *, largest: int, device: str | torch.device = "cpu", threads: int | None = None
) -> Classifier:
    """Return a classifier, warmed up for up to `largest` images and checked against its golden images.

    Device and precision are the first of `handlers.network.precision.candidates` that work: after a wrong golden answer
    comes the next precision of the device, after a GPU without memory the CPU.

    Raises:
        ArtifactError: the artifact cannot be read.
        DeviceError: the GPU that the settings name has not enough memory.
        GoldenError: the answer to a golden image differs from the exported one.
    """
    build = partial(Classifier, weights, top_k=settings.top_k, limits=settings.limits, threads=threads)
    images = _golden_images(weights.with_name(golden.FILE), settings)
    log = logging.getLogger(__name__)
    order = candidates(settings.precision, torch.device(device), only=settings.device != "auto")
    while True:
        (target, precision), *order = order
        try:
            return _proven(build(device=target, precision=precision), largest, images)
        except GoldenError as error:
            if not order or order[0][0] != target:
                raise
            log.warning("cannot serve in %s: %s", precision, error)
        except torch.OutOfMemoryError as error:
            order = _fallbacks(order, target, error)
        torch.cuda.empty_cache()  # here: the exception above held on to the network that failed


def _fallbacks(
    order: Sequence[tuple[torch.device, str]], full: torch.device, error: torch.OutOfMemoryError
) -> list[tuple[torch.device, str]]:
    """Return the candidates on another device than `full`, which is out of memory.

    Raises:
        DeviceError: there are none.
    """
    reason = str(error).partition("\n")[0]
    fallbacks = [candidate for candidate in order if candidate[0] != full]
    if not fallbacks:
        raise DeviceError(f"GPU out of memory for this model ({reason}): serve fewer workers of it") from error
    logging.getLogger(__name__).warning("GPU out of memory, serving on the CPU: %s", reason)
    return fallbacks


def _golden_images(file: Path, settings: Settings) -> list[golden.Golden]:
    """Return the golden images within the operator's limits: clients cannot send others either."""
    images = golden.read(file) if file.is_file() else []
    within = [image for image in images if image.within(settings.limits)]
    if images and not within:
        logging.getLogger(__name__).warning(
            "the model is not checked: none of its %d golden images is within handler.max_bytes=%d and "
            "handler.max_pixels=%d. Build the archive again with larger ones",
            *(len(images), settings.max_bytes, settings.max_pixels),
        )
    return within


def _proven(classifier: Classifier, largest: int, images: Sequence[golden.Golden]) -> Classifier:
    # Warm up first: the network is compiled then, and the check would run another program before.
    classifier.warm_up(largest)
    if images:
        golden.check(classifier, images, batch=largest)
    return classifier


def threads(workers: Any) -> int:
    """Return torch's threads in one worker, so that all workers use no more than the machine's cores.

    The operator's OMP_NUM_THREADS has priority, then the archive's number of workers, then the number that
    `serving.host.resources` computed for this server. Without any of them TorchServe starts a
    worker a core.
    """
    if omp_threads := _whole(os.environ.get("OMP_NUM_THREADS", "")):
        return omp_threads
    if isinstance(workers, int) and workers > 0:
        return max(1, cores() // workers)
    return _whole(os.environ.get(THREADS_VARIABLE, "")) or 1


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _images(request: ImageRequest | RequestError | None) -> list[payload.Image]:
    return request.images if isinstance(request, ImageRequest) else []


def _outcome(
    raw: RawRequest, request: ImageRequest | RequestError | None, answers: Sequence[Answer], reply: Reply
) -> Outcome | None:
    """Return the part of a request that is counted, None for descriptions and for requests of the server's own.

    The answer to an image that is to be explained is no prediction.
    """
    if request is None or UNCOUNTED_HEADER in raw.headers:
        return None
    if isinstance(request, RequestError):
        return Outcome(reply.code, [request], [])
    if request.explained is not None:
        answers = [answer for answer in answers if isinstance(answer, RequestError)]
    trace_id = trace_id_of(raw) if reply.request_id else ""
    return Outcome(reply.code, answers, request.images, reply.request_id, request.top_k, trace_id)


def _error_of(request: ImageRequest, answers: list[Answer]) -> RequestError | None:
    """Return the first error if all answers are errors; of a request with tensors, if any is."""
    errors = [answer for answer in answers if isinstance(answer, RequestError)]
    if errors and request.tensors is not None and request.explained is None:
        errors[0].has_tensors = True
        return errors[0]
    return errors[0] if len(errors) == len(answers) else None


def _entry(answer: Answer, request: ImageRequest) -> dict[str, Any]:
    if isinstance(answer, RequestError):
        return {"error": answer.body()}
    labels = dict(islice(answer.items(), request.top_k))
    if not request.familiarity:
        return labels
    return {"labels": labels, "familiarity": None if answer.familiarity is None else shown(answer.familiarity)}
