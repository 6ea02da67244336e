"""The handler that TorchServe calls: the only file that knows its context and its request dictionaries.

`handlers.service`, which every server shares, describes requests and replies.
"""

import logging
import os
from pathlib import Path
from typing import Any

from handlers import torchserve_reader
from handlers.device import fault_of
from handlers.requests.request import Field, RawRequest
from handlers.service import Service

Row = dict[str, Any]


class ImageHandler:
    """A worker's model: `initialize` once, then `handle` each batch."""

    def initialize(self, context: Any) -> None:
        """Load the artifact of the archive; raises what `Service` does."""
        torchserve_reader.install()
        model = context.manifest["model"]
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        self.service = Service(
            Path(properties["model_dir"]) / model["serializedFile"],
            context.model_yaml_config or {},
            version=str(model["modelVersion"]),
            name=str(model["modelName"]),
            device="cpu" if gpu is None else f"cuda:{gpu}",
        )

    def handle(self, data: list[Row], context: Any) -> list[bytes]:
        """Return one JSON document for each request of the batch, in order."""
        requests = [
            RawRequest(_headers(context, index), _fields(row), context.get_request_id(index) or "")
            for index, row in enumerate(data)
        ]
        try:
            replies = self.service.answer(requests)
        except RuntimeError:
            self._end_without_gpu()
            raise
        for index, reply in enumerate(replies):
            if reply.error is not None:
                # The phrase is one of the fixed ones of `errors`: a line break in it would kill the worker.
                context.set_response_status(code=reply.code, phrase=reply.error.phrase, idx=index)
            for name, value in (self.service.headers | reply.headers).items():
                context.set_response_header(index, name, value)
            if not requests[index].headers:  # only gRPC has none: a stream of its answers is one that ends here
                context.set_response_header(index, "ts_stream_next", "false")
        return [reply.body for reply in replies]

    def _end_without_gpu(self) -> None:
        """End this process where its GPU does not compute any more: TorchServe answers its batch and starts another."""
        fault = fault_of(self.service.classifier.device)
        if fault is not None:
            logging.getLogger(__name__).critical(
                "GPU lost (%s): exiting so that TorchServe restarts this worker", fault
            )
            logging.shutdown()
            os._exit(1)


def _headers(context: Any, index: int) -> dict[str, str]:
    """Return the headers of a request, without those of its fields, which TorchServe keeps among them."""
    headers = context.get_all_request_header(index)
    return {name.lower(): value for name, value in headers.items() if isinstance(value, str)}


def _fields(row: Row) -> list[Field]:
    if isinstance(row, torchserve_reader.Row):
        return [Field(field["name"], field["value"], bool(field["contentType"])) for field in row.fields]
    return [Field(name, value) for name, value in row.items()]  # another TorchServe version, not patched
