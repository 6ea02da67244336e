"""TorchServe at the edge: the only file that knows its context and its request dictionaries.

What is sent and what is answered stands in `handlers.service`, which every front door shares.
"""

from pathlib import Path
from typing import Any

import torch

from handlers.service import Asked, Service

Row = dict[str, Any]


class ImageHandler:
    """A worker's model: `initialize` once, then `handle` each batch."""

    def initialize(self, context: Any) -> None:
        """Load the artifact of the archive; raises what `Service` does."""
        model = context.manifest["model"]
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        on_gpu = gpu is not None and torch.cuda.is_available()
        self.service = Service(
            Path(properties["model_dir"]) / model["serializedFile"],
            context.model_yaml_config or {},
            version=str(model["modelVersion"]),
            device=f"cuda:{gpu}" if on_gpu else "cpu",
        )

    def handle(self, data: list[Row], context: Any) -> list[bytes]:
        """Return one JSON document for each request of the batch, in order."""
        replies = self.service.answer([Asked(_headers(context, index), row) for index, row in enumerate(data)])
        for index, reply in enumerate(replies):
            if reply.error is not None:
                # The phrase is one of the fixed ones of `errors`: a line break in it would kill the worker.
                context.set_response_status(code=reply.code, phrase=reply.error.phrase, idx=index)
            for name, value in self.service.headers.items():
                context.set_response_header(index, name, value)
        return [reply.body for reply in replies]


def _headers(context: Any, index: int) -> dict[str, Any]:
    return {str(name).lower(): value for name, value in context.get_all_request_header(index).items()}
