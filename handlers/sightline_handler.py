"""TorchServe at the edge: the only file that knows its context and its request dictionaries.

What a client sends, and what it gets:

    one image as the body, of any content type         {"label": probability, ...}, best first
    a form with one file                               the same
    a form with several files, each field its own name {"predictions": [...]}, in the order sent
    {"instances": [{"b64": "..."}, ...]}               {"predictions": [...]}, in the order sent
    the header `describe: True`                        what the model is, from its spec

An entry of predictions is {"label": probability, ...}, or {"error": {"code", "type", "message"}} for an image that
cannot be read. Where none of a request's images can be read, the request itself fails: status and body are those of
its first image. A failing request costs the others of its batch nothing. Every answer is JSON, with the model's version
in the header `model-version`.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch

from handlers import golden, payload
from handlers.classifier import Classifier
from handlers.errors import BadRequest, RequestError, TooLarge
from handlers.payload import Request
from handlers.settings import Settings

VERSION_HEADER = "model-version"

Row = dict[str, Any]
Answer = dict[str, float] | RequestError


class ImageHandler:
    """A worker's model: `initialize` once, then `handle` each batch."""

    def initialize(self, context: Any) -> None:
        """Load the artifact of the archive.

        Raises:
            ValueError: model-config.yaml has a setting that is unknown or wrong.
            ArtifactError: the artifact cannot be read.
            GoldenError: a golden image of the archive is answered otherwise than when it was exported.
        """
        config = context.model_yaml_config or {}
        model = context.manifest["model"]
        properties = context.system_properties
        self.settings = Settings.read(config.get("handler"))
        self.version = str(model["modelVersion"])
        gpu = properties.get("gpu_id")
        on_gpu = gpu is not None and torch.cuda.is_available()
        self.classifier = Classifier(
            Path(properties["model_dir"]) / model["serializedFile"],
            device=f"cuda:{gpu}" if on_gpu else "cpu",
            top_k=self.settings.top_k,
            limits=self.settings.limits,
            threads=threads(config.get("minWorkers")),
            precision=self.settings.precision,
        )
        self.classifier.warm_up(int(config.get("batchSize", 1)) * self.settings.max_images)
        kept = Path(properties["model_dir"]) / golden.FILE
        if kept.is_file():
            golden.check(self.classifier, golden.read(kept))

    def handle(self, data: list[Row], context: Any) -> list[bytes]:
        """Return one JSON document for each request of the batch, in order.

        The images of all requests go through the network together.
        """
        requests = [self._read(row, _headers(context, index)) for index, row in enumerate(data)]
        answers = iter(self._classify([image for request in requests for image in _images(request)]))
        return [
            self._respond(request, [next(answers) for _ in _images(request)], index, context)
            for index, request in enumerate(requests)
        ]

    def _read(self, row: Row, headers: dict[str, Any]) -> Request | RequestError | None:
        """Return the images of one request, what is wrong with it, or None where it asks for the description."""
        if headers.get("describe") == "True":
            return None
        content_type = headers.get("content-type")
        kind = content_type.partition(";")[0].strip().lower() if isinstance(content_type, str) else ""
        try:
            if kind == "multipart/form-data":
                return self._form(row)
            if kind == "application/x-www-form-urlencoded":
                return self._urlencoded(row)
            # Parameters of the address stand beside the body: only these two names are the body's.
            return self._body(row.get("body", row.get("data")))
        except RequestError as error:
            return error.with_traceback(None)

    def _body(self, body: Any) -> Request:
        # Text that TorchServe decoded was valid UTF-8: encoding it again gives back the very bytes.
        content = body.encode() if isinstance(body, str) else body
        if content is None or content == b"":
            raise BadRequest(f"the request has no body; send an image or {payload.FORM}")
        if isinstance(content, bytes | bytearray):
            if not payload.is_json(content):
                return Request([content], listed=False)
            content = payload.parse(content)
        limits = self.settings
        images = payload.images(content, max_images=limits.max_images, max_bytes=limits.max_bytes)
        return Request(images, listed=True)

    def _form(self, row: Row) -> Request:
        if len(row) < 2:
            return self._body(next(iter(row.values()), None))
        if len(row) > self.settings.max_images:
            raise TooLarge(f"the request has {len(row)} images, more than the limit of {self.settings.max_images}")
        return Request([_field(value) for value in row.values()], listed=True)

    def _urlencoded(self, row: Row) -> Request:
        """Return the images of JSON that came as a form, as `curl -d` sends it: cut in two at its first "="."""
        for name, value in row.items():
            if payload.is_json(name[:64].encode()):
                rest = value if isinstance(value, str) else bytes(value).decode(errors="replace")
                return self._body(f"{name}={rest}" if rest else name)
        raise BadRequest("curl -d sends a form, which an image does not survive: send it with curl -T FILE")

    def _classify(self, images: list[payload.Image]) -> list[Answer]:
        answers = iter(self.classifier.classify([image for image in images if not isinstance(image, RequestError)]))
        return [image if isinstance(image, RequestError) else next(answers) for image in images]

    def _respond(
        self, request: Request | RequestError | None, answers: list[Answer], index: int, context: Any
    ) -> bytes:
        if request is None:
            document = self._description()
        elif isinstance(request, RequestError):
            document = _refuse(request, index, context)
        elif (error := _error_of_all(answers)) is not None:
            document = _refuse(error, index, context)
        elif request.listed:
            document = {"predictions": [_entry(answer) for answer in answers]}
        else:
            document = _entry(answers[0])
        context.set_response_header(index, "content-type", "application/json")
        context.set_response_header(index, VERSION_HEADER, self.version)
        return json.dumps(document).encode()

    def _description(self) -> dict[str, Any]:
        spec = json.loads(self.classifier.spec.to_json())
        chosen = {"top_k": self.classifier.top_k, "precision": self.classifier.engine.precision}
        return {**spec, "version": self.version, **chosen}


def threads(workers: Any) -> int:
    """Return torch's threads in one worker, so that all of them together use no more than the machine's cores.

    OMP_NUM_THREADS says it where the server was started with it. Without `minWorkers` TorchServe starts as many workers
    as there are cores.
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdecimal() and int(told):
        return int(told)
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // workers) if isinstance(workers, int) and workers > 0 else 1


def _headers(context: Any, index: int) -> dict[str, Any]:
    return {str(name).lower(): value for name, value in context.get_all_request_header(index).items()}


def _images(request: Request | RequestError | None) -> list[payload.Image]:
    return request.images if isinstance(request, Request) else []


def _field(value: Any) -> payload.Image:
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, bytes | bytearray) else BadRequest("a field of several must be an image")


def _error_of_all(answers: list[Answer]) -> RequestError | None:
    """Return the first error where there is nothing but errors."""
    errors = [answer for answer in answers if isinstance(answer, RequestError)]
    return errors[0] if len(errors) == len(answers) else None


def _refuse(error: RequestError, index: int, context: Any) -> dict[str, Any]:
    # The phrase is one of the fixed ones of `errors`: a line break in it would kill the worker.
    context.set_response_status(code=error.code, phrase=error.phrase, idx=index)
    return error.body()


def _entry(answer: Answer) -> dict[str, Any]:
    return {"error": answer.body()} if isinstance(answer, RequestError) else dict(answer)
