"""A small HTTP server of the tests, in a thread: it answers as it is told to, and keeps what it was sent."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator


class Answers:
    """What arrived, and how to answer: `status` and `stall` (seconds) of the request of a number."""

    def __init__(self, status: Callable[[int], int], stall: Callable[[int], float]) -> None:
        self.status, self.stall = status, stall
        self.bodies: list[bytes] = []
        self.heads: list[str] = []  # in lower case
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length:")[1].split("\r\n")[0])
                number = len(self.bodies)
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(length))
                await asyncio.sleep(self.stall(number))
                writer.write(f"HTTP/1.1 {self.status(number)} Said\r\nContent-Length: 2\r\n\r\n{{}}".encode())
                await writer.drain()
        writer.close()


@contextlib.contextmanager
def answering(
    status: Callable[[int], int] = lambda number: 200, stall: Callable[[int], float] = lambda number: 0.0
) -> Iterator[Answers]:
    """Run the server on a free port of this machine."""
    answers, ready, loop = Answers(status, stall), threading.Event(), asyncio.new_event_loop()
    end = asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(answers.serve, "127.0.0.1", 0)
        answers.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict"
        ready.set()
        await end.wait()
        server.close()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield answers
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
        loop.close()
