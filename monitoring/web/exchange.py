"""A request of the page's browser and its reply, and the refusals that every address shares."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

JSON = "application/json"


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A request whose origin and size are checked; `query` has the last value of each name."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """A reply, without the headers that all of them have."""

    code: int
    content_type: str
    body: bytes

    @classmethod
    def of(cls, document: Mapping[str, Any], code: int = 200) -> "Reply":
        """Return a document."""
        return cls(code, JSON, json.dumps(document, allow_nan=False).encode())


class Refusal(Exception):
    """A request gets an error: `code` is the HTTP status, `kind` the type of error; the message says what to do."""

    def __init__(self, code: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.code, self.kind = code, kind

    def reply(self) -> Reply:
        """Return it as a document like TorchServe's."""
        return Reply.of({"code": self.code, "type": self.kind, "message": str(self)}, self.code)
