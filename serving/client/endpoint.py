"""One address of a server: sends a request, returns its answer or raises an error of `serving.errors`."""

import dataclasses
import email.utils
import json
import socket
import time
from typing import Any

import httpx

from serving.client.deadline import Deadline
from serving.client.tokens import Token
from serving.client.transport import Transport, timeout_of
from serving.errors import ClientError, DeadlinePassed, NotFound, RequestRefused, ServerFailed, Unreachable

UNIX = "unix:"
LONGEST_PATH = 107  # bytes of a unix socket's path, of the system
CONNECT = 5.0  # seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    code: int
    headers: httpx.Headers
    body: bytes

    def json(self) -> Any:
        """Return the document; ServerFailed if the body is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise ServerFailed(self.code, "the answer is not JSON") from None

    def error(self) -> ClientError:
        """Return the error of an answer of 400 or more."""
        try:
            document = json.loads(self.body)
            kind, message = str(document["type"]), str(document["message"])
        except (ValueError, KeyError, TypeError):
            kind, message = httpx.codes.get_reason_phrase(self.code), self.body.decode(errors="replace")[:200]
        if self.code == httpx.codes.REQUEST_ENTITY_TOO_LARGE and not message:  # the front end gives no message
            message = "the request has more bytes than max_request_size in config.properties allows"
        if kind == "InvalidKeyException":
            return InvalidKey(message)
        if self.code >= 500:
            return ServerFailed(self.code, message, kind, self._retry_after())
        return (NotFound if self.code == 404 else RequestRefused)(self.code, kind, message)

    def _retry_after(self) -> float | None:
        """Return the seconds that an answer of 503 asks to wait, as a number or a date (RFC 9110, 10.2.3)."""
        text = self.headers.get("retry-after", "").strip() if self.code == httpx.codes.SERVICE_UNAVAILABLE else ""
        if text.isdecimal():
            return float(text)
        try:
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
        except ValueError:
            return None


class NobodyListens(Unreachable):
    """No process listens at the address: nothing was sent."""


class InvalidKey(ClientError):
    """The server refused the token, and did not read the request."""


class Endpoint:
    """One address, and the connections to it: an URL, or `unix:` and the path of a socket.

    Raises:
        ClientError: the path is longer than a socket's may be.
    """

    def __init__(self, address: str, transport: httpx.BaseTransport | None) -> None:
        self.address = address
        self._socket = address.removeprefix(UNIX) if address.startswith(UNIX) and transport is None else None
        if self._socket is not None and len(self._socket.encode()) > LONGEST_PATH:
            raise ClientError(
                f"{address}: the path of a socket has at most {LONGEST_PATH} bytes; name it by a shorter one, "
                "such as a link to its folder"
            )
        base = "http://localhost" if address.startswith(UNIX) else address
        # A proxy of the environment is not meant for a server on this machine.
        self._http = httpx.Client(base_url=base, transport=transport or Transport(self._socket), trust_env=False)

    def send(self, method: str, path: str, token: Token, deadline: Deadline, options: dict[str, Any]) -> Answer:
        """Return the answer to one request, with any status.

        Raises:
            Unreachable: there is none.
        """
        timeout = timeout_of(deadline, connect=CONNECT)
        try:
            self._check_listener(timeout.connect)
            response = self._http.request(method, path, auth=token, timeout=timeout, **options)
            return Answer(response.status_code, response.headers, response.content)
        # Not chained: the frames below hold the header, and a traceback with its locals would show the token.
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NobodyListens(f"no server answers at {self.address} ({error}): start one (make serve)") from None
        except httpx.TimeoutException:
            raise DeadlinePassed(f"{self.address} did not answer within {deadline.seconds:.3g} s") from None
        except httpx.RequestError as error:
            raise Unreachable(f"{self.address} did not answer: {error or type(error).__name__}") from None

    def _check_listener(self, timeout: float | None) -> None:
        """Check that a server listens on the socket: httpcore leaves a failed one to the garbage collector."""
        if self._socket is None:
            return
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(timeout)
                probe.connect(self._socket)
        except OSError as error:
            raise httpx.ConnectError(str(error)) from None

    def close(self) -> None:
        """Close its connections."""
        self._http.close()
