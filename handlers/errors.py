"""Errors of a request, with the HTTP status that says so, and of an artifact.

RequestError                 what costs one request its answer
├── BadRequest        400    the body is not of a form that we read
├── BadImage          400    not an image, or a broken one
├── TooLarge          413    more bytes or pixels than the limit
├── UnsupportedFormat 415    an image, of a format that is not served
├── NoAnswer          500    a good image, and a network that gives no numbers for it
└── Busy              503    a good request that takes long, while others wait: send it again

ArtifactError                a file of a model cannot be written or read
"""

import math
import struct
import zlib

# What readers of images raise on hostile bytes; anything else may be a fault of ours. RuntimeError is AVIF's.
OF_HOSTILE_BYTES = (
    *(OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, OverflowError),
    *(RuntimeError, struct.error, zlib.error),
)


class RequestError(Exception):
    """A fault of one request: `code` is its HTTP status, `kind` the `type` of its JSON body."""

    code: int = 400
    phrase: str = "Bad Request"
    has_tensors = False  # its request is in the Open Inference Protocol, where errors have another field

    @property
    def kind(self) -> str:
        return type(self).__name__

    def body(self) -> dict[str, object]:
        """Return the JSON document of this error for the client."""
        document: dict[str, object] = {"code": self.code, "type": self.kind, "message": str(self)}
        return {**document, "error": str(self)} if self.has_tensors else document


class BadRequest(RequestError):
    """The body is neither an image nor JSON or a form that holds images."""


class BadImage(RequestError):
    """The bytes are not an image, or end too early."""

    code = 400


class TooLarge(RequestError):
    """More bytes or more pixels than the limit allows."""

    code = 413
    phrase = "Payload Too Large"


class UnsupportedFormat(RequestError):
    """An image, of a format that is not served."""

    code = 415
    phrase = "Unsupported Media Type"


class NoAnswer(RequestError):
    """The network's numbers are not finite: a precision that is too narrow for it, or weights that are broken."""

    code = 500
    phrase = "Internal Server Error"


class Busy(RequestError):
    """The request takes more of the worker's time than is left beside others: `retry_after` whole seconds help."""

    code = 503
    phrase = "Service Unavailable"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        self.retry_after = max(1, math.ceil(retry_after))
        super().__init__(f"{message}; send it again after {self.retry_after} s")


class ArtifactError(Exception):
    """An artifact cannot be written or read; the message names the file and the remedy."""
