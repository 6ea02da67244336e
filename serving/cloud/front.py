"""The front of the container on a platform that checks who asks: it passes requests on to TorchServe with our token.

TorchServe stays on the loopback, so that its token, which the platform does not send, still keeps everybody else out.
The front answers health checks by the state of the workers, since TorchServe's own `/ping` is healthy while a model
loads, and knows which requests are under way: the container ends after the last one.
"""

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import h11

from serving.cloud.exchange import Answer, Closed, Incoming, Refused, Request, Upstream
from serving.cloud.platform import Platform, PlatformError
from serving.host.state import ServerState

HEALTH_S = 1.0  # for which the state of the workers is not looked up again
QUIET_S = 1.0  # without a request: the platform sends no more
DRAIN_S = 8.0  # Cloud Run kills the container 10 s after SIGTERM
RETRY = (b"retry-after", b"1")
NOT_READY = Answer.refusal(503, "ServiceUnavailable", "the model is loading, or has no worker: ask again", RETRY)

logger = logging.getLogger(__name__)


class Front:
    """Listens at the platform's port from its start on, and passes requests on once it is `opened`.

    `is_healthy` says whether every worker is READY; `max_bytes` is the largest body.

    Raises:
        PlatformError: the port is taken.
    """

    def __init__(self, platform: Platform, is_healthy: Callable[[], bool], *, max_bytes: int) -> None:
        self._platform, self._is_healthy, self._max_bytes = platform, is_healthy, max_bytes
        self._models: Collection[str] = ()
        self._place: tuple[str, int, str] | None = None  # host, port and token of TorchServe
        self._health: tuple[float, bool] = (-HEALTH_S, False)  # when it was looked up
        self._looking = asyncio.Lock()
        self._under_way, self._last, self._is_draining = 0, 0.0, False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="front", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._server = self._run(
                asyncio.start_server(self._connected, "0.0.0.0", self._platform.port, backlog=1024)
            )
        except OSError as error:
            self._end()
            raise PlatformError(
                f"port {self._platform.port} is taken ({error}): {self._platform.name} needs it"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._end()

    @contextlib.contextmanager
    def opened(self, server: ServerState, models: Collection[str]) -> Iterator[None]:
        """Pass requests on to a server with these models until the block ends, and wait then for those under way."""
        self._models = models
        url = urlsplit(server.inference)
        token = json.loads(Path(server.key_file).read_text())["inference"]["key"]
        self._place = (url.hostname or "127.0.0.1", url.port or 80, token)
        try:
            yield
        finally:
            if server.process() is not None:
                self._drain()
            self._place = None

    def _drain(self) -> None:
        """Answer until no request has come for `QUIET_S` and none is under way, for `DRAIN_S` at most."""
        start = time.monotonic()
        self._is_draining = True
        while (now := time.monotonic()) - start < DRAIN_S:
            if not self._under_way and now - max(start, self._last) > QUIET_S:
                return
            time.sleep(0.02)
        logger.warning("%d requests are under way after %.0f s: they get no answer", self._under_way, DRAIN_S)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream: list[Upstream] = []
        # What ends a connection is the other side's matter: it gets no answer that it could read.
        try:
            with contextlib.suppress(Closed, OSError, TimeoutError, h11.ProtocolError, asyncio.CancelledError):
                incoming = Incoming(reader, writer, self._max_bytes)
                while await self._exchange(incoming, upstream):
                    pass
        finally:
            for connection in upstream:
                connection.close()
            writer.close()
            self._tasks.discard(task)

    async def _exchange(self, incoming: Incoming, upstream: list[Upstream]) -> bool:
        """Answer the next request of a connection; return whether another one may follow."""
        head = await incoming.head()
        if head.target != self._platform.health.encode():  # health checks continue while the container ends
            self._last = time.monotonic()
        self._under_way += 1
        try:
            request = await incoming.request(head)
            answer = await self._answer(request, upstream)
            return await incoming.answer(answer, close=self._is_draining)
        except Refused as refusal:
            await incoming.refuse(refusal.answer)
            return False
        finally:
            self._under_way -= 1

    async def _answer(self, request: Request, upstream: list[Upstream]) -> Answer:
        if request.path == self._platform.health:
            is_healthy = await self._look()
            return Answer.of(200, {"status": "Healthy"}) if is_healthy else Answer.of(503, {"status": "Unhealthy"})
        if not self._platform.is_open(request.path):
            return Answer.refusal(404, "NotFound", "this path is not open: use /predictions/<model>")
        if request.method not in ("POST", "PUT"):
            return Answer.refusal(405, "MethodNotAllowed", "send the image or the JSON document with POST")
        if self._place is None:
            return NOT_READY
        target = self._platform.target(request.path, self._models)
        upstream[:] = upstream or [Upstream(*self._place)]
        try:
            return await upstream[0].ask(request, target)
        except TimeoutError:
            return Answer.refusal(504, "Timeout", "the model does not answer")
        except (OSError, Closed, h11.ProtocolError) as error:
            logger.warning("TorchServe gives no answer: %r", error)
            return NOT_READY

    async def _look(self) -> bool:
        """Return whether every worker is READY, as of `HEALTH_S` ago at most; never while it starts or ends."""
        async with self._looking:
            if self._place is None or self._is_draining:
                return False
            if time.monotonic() - self._health[0] >= HEALTH_S:
                self._health = time.monotonic(), await asyncio.to_thread(self._is_healthy)
            return self._health[1]

    async def _close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
