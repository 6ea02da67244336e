"""The errors of packing, serving and asking a model, with one base class to catch.

ServingError                     anything; ArchiveError, DeployError, ServerError ... are in the modules that raise them
└── ClientError                  a request to a server fails
    ├── Unreachable              no server answers at that address
    │   └── DeadlinePassed       none did in the time that the call had
    ├── NoKey                    no key file, or the server refuses its tokens
    ├── RequestRefused     4xx   the server refuses the request and says why
    │   └── NotFound       404   no such model or version
    └── ServerFailed       5xx   the server could not answer a good request
"""


class ServingError(Exception):
    """A command fails; the message names the cause and the remedy."""


class ClientError(ServingError):
    """A request to a server fails."""


class Unreachable(ClientError):
    """No server answers at that address."""


class DeadlinePassed(Unreachable):
    """The call's time is over. A requested change may have happened, or may still happen."""


class NoKey(ClientError):
    """There is no key file, or the server refuses its tokens."""


class RequestRefused(ClientError):
    """The server refuses the request and says why: `code` is the HTTP status, `kind` the type of error."""

    def __init__(self, code: int, kind: str, message: str) -> None:
        super().__init__(f"{code} {kind}: {message}")
        self.code = code
        self.kind = kind
        self.message = message


class NotFound(RequestRefused):
    """No such model or version."""


class ServerFailed(ClientError):
    """The server could not answer a good request: `code` is the HTTP status, `kind` the type of error.

    `retry_after` is in seconds, None unless the server names a time for the next attempt.
    """

    def __init__(self, code: int, message: str, kind: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.retry_after = retry_after
        self.code = code
        self.kind = kind
        self.message = message
