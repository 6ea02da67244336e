"""A TorchServe handler that does nothing, to measure the cost of the server; the only module of its archive."""

from typing import Any


class Noop:
    """Answers every request of a batch with the same few bytes."""

    def initialize(self, context: Any) -> None:
        """Load nothing."""

    def handle(self, data: list[Any], context: Any) -> list[bytes]:
        """Return one answer a request."""
        for index in range(len(data)):
            context.set_response_header(index, "content-type", "application/json")
        return [b'{"nothing": 1.0}' for _ in data]
