"""One connection of the platform: each of its requests is read whole, and answered here or by TorchServe.

A connection to TorchServe belongs to one of the platform, so that answers cannot be mixed up.
"""

import asyncio
import contextlib
import dataclasses
import json
from typing import Any

import h11

PIECE = 65_536  # bytes read at once
HEAD_LIMIT = 65_536  # bytes of a request's line and headers
IDLE_S = 620.0  # Google's front ends keep an idle connection for 600 s: they must be the first to close it
BODY_S = 30.0  # for the body of a request
REST_S = 2.0  # for the rest of a refused body: a connection that is closed on unread bytes loses the answer
# Seconds for each attempt at an answer. A worker that dies takes requests with it, and an image that kills its worker
# must not kill all of them: so a few attempts, and in all the minute after which TorchServe replaces a worker.
ATTEMPTS_S = (15.0, 15.0, 30.0)
PAUSE_S = 0.1  # between two of them
LOST = {500, 507}  # the statuses of a batch whose worker died
# Headers of one connection, the client's authorization, which the platform has checked, and our own, by one of which a
# client would hide its requests from the metrics.
OF_THE_CONNECTION = {
    *(b"connection", b"keep-alive", b"proxy-authorization", b"proxy-connection", b"te", b"trailer"),
    *(b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect", b"authorization"),
    *(b"x-sightline-client", b"x-sightline-uncounted", b"x-sightline-canary"),
}

Headers = list[tuple[bytes, bytes]]


class Closed(Exception):
    """The other side has closed the connection, or sends no HTTP."""


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A whole request."""

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    code: int
    headers: Headers
    body: bytes

    @classmethod
    def of(cls, code: int, document: dict[str, Any], *headers: tuple[bytes, bytes]) -> "Answer":
        """Return an answer with a JSON document."""
        return cls(code, [(b"content-type", b"application/json"), *headers], json.dumps(document).encode())

    @classmethod
    def refusal(cls, code: int, kind: str, message: str, *headers: tuple[bytes, bytes]) -> "Answer":
        """Return an error in the form of TorchServe's own."""
        return cls.of(code, {"code": code, "type": kind, "message": message}, *headers)


class Refused(Exception):
    """A request is answered before it is read to its end; the connection cannot be used again."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.code)
        self.answer = answer


class Incoming:
    """The server's side of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_bytes: int) -> None:
        self._reader, self._writer, self._max_bytes = reader, writer, max_bytes
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        self._is_head = False  # a request whose answer has no body

    async def head(self) -> h11.Request:
        """Return the head of the next request.

        Raises:
            Closed: there is none.
        """
        async with asyncio.timeout(IDLE_S):
            event = await self._event()
        if not isinstance(event, h11.Request):
            raise Closed
        self._is_head = event.method == b"HEAD"
        return event

    async def request(self, head: h11.Request) -> Request:
        """Return the request that begins with `head`.

        Raises:
            Refused: it is too large, or too slow.
            Closed: it does not end.
        """
        lengths = [int(value) for name, value in head.headers if name == b"content-length"]
        if lengths and lengths[0] > self._max_bytes:
            raise Refused(self._too_large())
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                while isinstance(event := await self._event(), h11.Data):
                    body += event.data
                    if len(body) > self._max_bytes:
                        raise Refused(self._too_large())
        except TimeoutError:
            slow = f"the body was not sent within {BODY_S:.0f} s"
            raise Refused(Answer.refusal(408, "RequestTimeout", slow)) from None
        if not isinstance(event, h11.EndOfMessage):
            raise Closed
        path, _, query = head.target.decode("latin-1").partition("?")
        return Request(head.method.decode(), path, query, list(head.headers), bytes(body))

    def _too_large(self) -> Answer:
        return Answer.refusal(
            413, "RequestTooLarge", f"a request has at most {self._max_bytes} bytes: send less at once"
        )

    async def refuse(self, answer: Answer) -> None:
        """Send an answer to a request that is not read to its end, and read what is sent until then."""
        await self.answer(answer, close=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REST_S):
                while await self._reader.read(PIECE):
                    pass

    async def answer(self, answer: Answer, *, close: bool) -> bool:
        """Send an answer; return whether another request may follow on this connection."""
        headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
        headers += [(b"connection", b"close")] if close else []
        response, end = h11.Response(status_code=answer.code, headers=headers), h11.EndOfMessage()
        events = [response, end] if self._is_head else [response, h11.Data(answer.body), end]
        self._writer.write(b"".join(filter(None, map(self._protocol.send, events))))
        await self._writer.drain()
        if close or self._protocol.our_state is not h11.DONE or self._protocol.their_state is not h11.DONE:
            return False
        self._protocol.start_next_cycle()
        return True

    async def _event(self) -> object:
        while (event := self._protocol.next_event()) is h11.NEED_DATA:
            if self._protocol.they_are_waiting_for_100_continue:
                self._writer.write(self._protocol.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            self._protocol.receive_data(await self._reader.read(PIECE))
        return event


class Upstream:
    """A connection to TorchServe, made when it is first used."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._place, self._token = (host, port), token
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._protocol = h11.Connection(h11.CLIENT)

    async def ask(self, request: Request, target: str) -> Answer:
        """Return TorchServe's answer to a request at the path `target`, which is sent again if its worker died.

        Raises:
            OSError, Closed, h11.ProtocolError: the last attempt got none; TimeoutError: not in time.
        """
        for number, seconds in enumerate(ATTEMPTS_S, start=1):
            is_last = number == len(ATTEMPTS_S)
            try:
                async with asyncio.timeout(seconds):
                    answer = await self._ask(request, target)
                if answer.code not in LOST or is_last:
                    return answer
            except (OSError, Closed, h11.ProtocolError):
                self.close()
                if is_last:
                    raise
            except BaseException:  # a later answer must not be taken for that of the next request
                self.close()
                raise
            await asyncio.sleep(PAUSE_S)
        raise AssertionError

    async def _ask(self, request: Request, target: str) -> Answer:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._place, limit=PIECE)
            self._protocol = h11.Connection(h11.CLIENT)
        reader, writer = self._streams
        headers = [(name, value) for name, value in request.headers if name.lower() not in OF_THE_CONNECTION]
        headers += [(b"host", b"localhost"), (b"authorization", f"Bearer {self._token}".encode())]
        headers += [(b"content-length", b"%d" % len(request.body))]
        head = h11.Request(method=request.method, target=f"{target}?{request.query}".rstrip("?"), headers=headers)
        writer.write(
            b"".join(filter(None, map(self._protocol.send, (head, h11.Data(request.body), h11.EndOfMessage()))))
        )
        await writer.drain()
        response, body = None, bytearray()
        while not isinstance(event := await self._event(reader), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif not isinstance(event, h11.InformationalResponse):
                raise Closed
        if response is None:
            raise Closed
        if self._protocol.our_state is h11.DONE and self._protocol.their_state is h11.DONE:
            self._protocol.start_next_cycle()
        else:
            self.close()
        headers = [(name, value) for name, value in response.headers if name.lower() not in OF_THE_CONNECTION]
        return Answer(response.status_code, headers, bytes(body))

    async def _event(self, reader: asyncio.StreamReader) -> object:
        while (event := self._protocol.next_event()) is h11.NEED_DATA:
            self._protocol.receive_data(await reader.read(PIECE))
        return event

    def close(self) -> None:
        """Close the connection; the next request makes another one."""
        if self._streams is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._streams[1].close()
            self._streams = None
