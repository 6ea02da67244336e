"""HTTP for the page: requests within limits, of the page itself only, and the same headers on every reply."""

import http
import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from monitoring.web import guard
from monitoring.web.exchange import Refusal, Reply, Request
from monitoring.web.site import Site
from serving.host.ports import LOOPBACK

IDLE = 30.0  # seconds that a connection may wait, also in the middle of a request
PART = 65_536  # bytes that are read at once
DISCARDED = 256 * 2**20  # bytes of a body that is too large; a browser shows no reply before it has sent all

logger = logging.getLogger(__name__)


class PageServer(ThreadingHTTPServer):
    """Listens on the loopback.

    Args:
        port: 0 for any.
        site: answers.
    """

    daemon_threads = True

    def __init__(self, port: int, site: Site) -> None:
        super().__init__((LOOPBACK[0], port), Handler)
        self.site = site

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://{LOOPBACK[0]}:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the error of a connection, such as a browser that has left."""
        logger.debug("a connection of the page failed", exc_info=True)


class Handler(BaseHTTPRequestHandler):
    """Reads a request, has the site answer it, and writes the reply."""

    server: PageServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE

    def do_GET(self) -> None:
        """Answer a request without a body."""
        self._answer()

    def do_POST(self) -> None:
        """Answer a request with a body."""
        self._answer()

    def version_string(self) -> str:
        """Return the header Server, without versions."""
        return "Sightline"

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Log nothing: a terminal is for the address of the page."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that is none, or has another method."""
        self.close_connection = True
        self._send(Refusal(code, "BadRequest", message or http.HTTPStatus(code).phrase).reply())

    def _answer(self) -> None:
        try:
            guard.check(self.command, self.headers.get("Host", ""), self.headers.get("Origin"))
            url = urlsplit(self.path)
            body = self._body()
        except (Refusal, ValueError) as error:
            refusal = error if isinstance(error, Refusal) else Refusal(400, "BadRequest", "the address is none")
            self.close_connection = True  # its body was not read
            self._send(refusal.reply())
            return
        self._send(self.server.site.answer(Request(self.command, url.path, dict(parse_qsl(url.query)), body)))

    def _body(self) -> bytes:
        """Return the body of a request.

        Raises:
            Refusal: its length is unknown, or above the server's limit.
        """
        text, largest = self.headers.get("Content-Length", "0"), self.server.site.largest()
        if "Transfer-Encoding" in self.headers or not (text.isascii() and text.isdecimal() and len(text) < 16):
            raise Refusal(411, "LengthRequired", "send the image with its length")
        if self.command == "GET" and int(text):
            raise Refusal(400, "BadRequest", "a GET has no body")
        if int(text) > largest:
            self._discard(int(text))
            raise Refusal(413, "TooLarge", f"the image has more than {largest:,} bytes: send a smaller one")
        return self.rfile.read(int(text))

    def _discard(self, length: int) -> None:
        length = min(length, DISCARDED)
        while length and (part := self.rfile.read(min(length, PART))):
            length -= len(part)

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.code)
        headers = guard.HEADERS | {"Content-Type": reply.content_type, "Content-Length": str(len(reply.body))}
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
