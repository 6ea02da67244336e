"""What can go wrong while something is packed, served or asked; one class to catch for all of it.

ServingError                     anything; ArchiveError, DeployError, ServerError ... stand beside their work
└── ClientError                  between asking a server and having its answer
    ├── Unreachable              no server answers there
    │   └── DeadlinePassed       none did in the time that the call had
    ├── NoKey                    there is no key file, or the server refuses its tokens
    ├── RequestRefused     4xx   the server says what is wrong with the request
    │   └── NotFound       404   no such model or version
    └── ServerFailed       5xx   the server could not answer a good request
"""


class ServingError(Exception):
    """Something cannot be done; the message says what, why, and what to do."""


class ClientError(ServingError):
    """Anything that goes wrong between asking and having the answer."""


class Unreachable(ClientError):
    """No server answers there."""


class DeadlinePassed(Unreachable):
    """The call's time is over. What was to be changed may have been changed, or be changed still."""


class NoKey(ClientError):
    """There is no key file, or the server refuses its tokens."""


class RequestRefused(ClientError):
    """The server says what is wrong with the request: `code` is the HTTP status, `kind` the type of error."""

    def __init__(self, code: int, kind: str, message: str) -> None:
        super().__init__(f"{code} {kind}: {message}")
        self.code = code
        self.kind = kind
        self.message = message


class NotFound(RequestRefused):
    """No such model or version."""


class ServerFailed(ClientError):
    """The server could not answer a good request: `code` is the HTTP status, `kind` the type of error.

    `retry_after` is in seconds, where the server says when it is to be asked again.
    """

    def __init__(self, code: int, message: str, kind: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.retry_after = retry_after
        self.code = code
        self.kind = kind
        self.message = message
