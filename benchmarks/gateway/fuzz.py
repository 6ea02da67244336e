"""Mutated HTTP requests: what do the gateway, and TorchServe alone, make of them?

    python -m benchmarks.gateway.fuzz                    5,000 at the gateway, as many at TorchServe alone; 5 minutes
    python -m benchmarks.gateway.fuzz --requests 200

A valid request is changed in one to three ways: bytes, lines, lengths, codings, paths and ends, always the same for a
number. Each is sent over a connection of its own, and the first bytes of an answer are waited for up to 35 seconds: the
gateway ends a request that is not whole after thirty. An image is answered afterwards. The last line is one JSON
document.
"""

import asyncio
import contextlib
import ssl
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.gateway import fleet
from benchmarks.gateway.fleet import Fleet
from benchmarks.gateway.kills import CODE
from benchmarks.harness import console, small_server
from benchmarks.harness.small_server import Expected
from benchmarks.result import Origin

RESULT, WORK = Path("benchmarks/results/gateway_fuzz.json"), Path("runs/bench-gateway-fuzz")
AT_ONCE, PATIENCE = 128, 35.0  # connections; seconds
Random = np.random.Generator
HEADERS = [
    line.encode("latin-1").decode("unicode_escape").encode("latin-1")
    for line in r"""Transfer-Encoding: chunked
Transfer-Encoding: gzip, chunked
Transfer-Encoding: identity
Content-Length: 5
Content-Length: -1
Content-Length: 99999999999999999999
Content-Length: 0x10
Expect: 100-continue
Connection: upgrade, keep-alive
Upgrade: websocket
Upgrade: h2c
Content-Type: multipart/form-data
Content-Type: application/json
Content-Type: application/x-www-form-urlencoded
Content-Encoding: gzip
Host: other
Host:
: no name
a b: c
X-Null: \x00
 folded
TE: trailers
Trailer: Host
traceparent: 00-0
describe: True""".splitlines()
]
LINES = [
    line.encode("latin-1").decode("unicode_escape").encode("latin-1")
    for line in r"""GET / HTTP/1.1
POST /predictions/small HTTP/1.0
POST /predictions/small HTTP/2.0
POST /predictions/small
PRI * HTTP/2.0
CONNECT localhost:80 HTTP/1.1
OPTIONS * HTTP/1.1
POST http://other/predictions/small HTTP/1.1
POST /predictions/%00 HTTP/1.1
POST /predictions/small%0d%0aX: y HTTP/1.1
POST /predictions/../models HTTP/1.1
POST /predictions/small?a=%ff HTTP/1.1
BREW /predictions/small HTTP/1.1
POST /explanations/small HTTP/1.1
POST /v1/models/small:predict HTTP/1.1
\xff\xfe\xfd HTTP/1.1""".splitlines()
] + [b"", b"POST " + b"/a" * 9000 + b" HTTP/1.1"]


def _flip(request: bytes, random: Random) -> bytes:
    data = bytearray(request)
    for _ in range(int(random.integers(1, 8))):
        data[int(random.integers(len(data)))] = int(random.integers(256))
    return bytes(data)


def _flip_head(request: bytes, random: Random) -> bytes:
    head, separator, body = request.partition(b"\r\n\r\n")
    return _flip(head, random) + separator + body


def _truncate(request: bytes, random: Random) -> bytes:
    return request[: int(random.integers(1, len(request)))]


def _add_header(request: bytes, random: Random) -> bytes:
    line, end, headers = request.partition(b"\r\n")
    return line + end + HEADERS[int(random.integers(len(HEADERS)))] + end + headers


def _replace_line(request: bytes, random: Random) -> bytes:
    return LINES[int(random.integers(len(LINES)))] + request[request.find(b"\r\n") :]


def _double(request: bytes, random: Random) -> bytes:
    lines = request.split(b"\r\n")
    place = int(random.integers(len(lines)))
    return b"\r\n".join([*lines[:place], lines[place], *lines[place:]])


def _end_lines(request: bytes, random: Random) -> bytes:
    ends = (b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\0")
    return request.replace(b"\r\n", ends[int(random.integers(len(ends)))], int(random.integers(1, 5)))


def _follow(request: bytes, random: Random) -> bytes:
    return request + request[: int(random.integers(1, 200))]


WAYS: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip, _flip_head, _truncate, _add_header, _replace_line, _double, _end_lines, _follow,
)  # fmt: skip


def mutation(request: bytes, number: int) -> bytes:
    """Return a changed request, always the same for a number."""
    random = np.random.default_rng([20, number])
    for _ in range(int(random.integers(1, 4))):
        request = WAYS[int(random.integers(len(WAYS)))](request, random) or b"\r\n"
    return request


def request_of(url: str, headers: dict[str, str], body: bytes) -> bytes:
    """Return a valid request."""
    lines = [f"POST {urlsplit(url).path} HTTP/1.1", "Host: localhost", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


async def ending(request: bytes, port: int, context: ssl.SSLContext | None) -> str:
    """Return the first status that a request got, "closed" for none, or "open": neither within 35 seconds."""
    try:
        reader, writer = await asyncio.open_connection("localhost" if context else "127.0.0.1", port, ssl=context)
    except OSError as error:
        return f"unreachable: {type(error).__name__}"
    try:
        with contextlib.suppress(OSError):
            writer.write(request)
            await writer.drain()
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read(64)
        return answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/") else "closed" if not answer else "other"
    except TimeoutError:
        return "open"
    except (OSError, ssl.SSLError):
        return "closed"
    finally:
        writer.transport.abort()


async def endings(request: bytes, count: int, port: int, context: ssl.SSLContext | None) -> Counter[str]:
    """Return how many of the mutated requests ended in which way."""
    numbers, counted = iter(range(count)), Counter[str]()

    async def one_after_the_other() -> None:
        for number in numbers:
            counted[await ending(mutation(request, number), port, context)] += 1

    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))
    return counted


def attack(running: Fleet, count: int, expected: Expected, *, direct: bool) -> dict[str, Any]:
    """Return the figures of mutated requests to the gateway, or to the node itself."""
    url, headers = running.direct() if direct else (running.url, running.headers)
    image = small_server.images(1)[0]
    context = None if direct else ssl.create_default_context(cafile=running.certificate)
    before = running.processes()
    counted = asyncio.run(endings(request_of(url, headers, image), count, int(urlsplit(url).port or 0), context))
    after = running.processes()
    with running.session() as session:
        answer = session.post(running.url, content=image)
    return {
        "requests": count,
        "endings": dict(sorted(counted.items())),
        "server_errors": sum(times for kind, times in counted.items() if kind.startswith("5")),
        "open": counted["open"],
        "same_processes": {name: before[name] == after[name] for name in before},
        "answers_after": answer.status_code == 200 and expected.version_of(0, answer.content) == "1.0",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the result; 1 where the gateway fails, or a process was replaced."""
    parser = console.parser("fuzz", __doc__, "benchmarks.gateway")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    command_line = sys.argv[1:] if arguments is None else arguments
    origin = Origin("fuzz", command_line, code=CODE, package="benchmarks.gateway")
    with fleet.running(Path.cwd() / WORK, 1) as running:
        expected = Expected.of(running.nodes[0], ["1.0"], small_server.images(1))
        rows = {
            "gateway": attack(running, options.requests, expected, direct=False),
            "torchserve": attack(running, options.requests, expected, direct=True),
        }
    gateway = rows["gateway"]
    failed = gateway["server_errors"] > 0 or gateway["open"] > 0
    failed |= not all(row["answers_after"] and all(row["same_processes"].values()) for row in rows.values())
    return origin.publish({"goals": {"server_errors": 0, "open": 0}, **rows}, options.output, failed=failed)


if __name__ == "__main__":
    sys.exit(main())
