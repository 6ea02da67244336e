"""What reading a request from TorchServe's front end costs a worker: by TorchServe's own reader, and by ours.

    python -m benchmarks.wire
    python -m benchmarks.wire --rounds 50

Full batches over a unix socket, as the front end sends them to its worker, with the headers of an ordinary client; the
processor time of the reading thread alone. Both take turns in each round. Writes benchmarks/results/wire.json; the last
line is the same JSON document.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ts.protocol import otf_message_handler as protocol
from ts.service import Service

from benchmarks.result import Origin
from handlers import wire
from handlers.atomic import write_json
from serving import model_config

RESULT = Path("benchmarks/results/wire.json")
SIZES = {"5 KB": 5_000, "28 KB": 28_000, "1,100 KB": 1_100_000}  # those of benchmarks.bodies
HEADERS = {
    b"Host": b"127.0.0.1:8080",
    b"Accept": b"*/*",
    b"User-Agent": b"python-httpx/0.28.1",
    b"Connection": b"keep-alive",
    b"Content-Type": b"image/jpeg",
    b"Authorization": b"Bearer abcdefgh",
    b"content-length": b"5000",
}
NAMES = ("_retrieve_buffer", "_retrieve_inference_msg")
Part = tuple[bytes, bytes, bytes]  # a field's name, content type and value
BATCHES = 1 << 22  # bytes of one turn, at least four batches


def field(value: bytes) -> bytes:
    """Return a field as it goes over the socket, its length first."""
    return struct.pack("!i", len(value)) + value


def message(requests: Iterable[tuple[Mapping[bytes, bytes], Iterable[Part]]]) -> bytes:
    """Return a batch as the front end sends it: the headers of each request, and its fields."""
    end = struct.pack("!i", wire.END)
    sent = b"I"
    for number, (headers, parts) in enumerate(requests):
        sent += field(f"{number:036d}".encode())
        sent += b"".join(field(name) + field(value) for name, value in headers.items()) + end
        sent += b"".join(field(each) for part in parts for each in part) + end
    return sent + end


@contextlib.contextmanager
def ours() -> Iterator[None]:
    """Read as a worker of ours does, as long as this lasts."""
    before = {name: getattr(protocol, name) for name in NAMES}
    fold = Service.retrieve_data_for_inference
    try:
        with closing(wire.install()):
            yield
    finally:
        for name, value in before.items():
            setattr(protocol, name, value)
        Service.retrieve_data_for_inference = staticmethod(fold)


def read(sent: bytes, batches: int) -> float:
    """Return the processor seconds that reading so many batches takes this thread."""
    front_end, worker = socket.socketpair(socket.AF_UNIX)
    with closing(front_end), closing(worker):

        def send() -> None:
            for _ in range(batches):
                front_end.sendall(sent)
                front_end.recv(1)  # the next batch comes when the last one is answered

        sender = threading.Thread(target=send)
        sender.start()
        spent = 0.0
        for _ in range(batches):
            began = time.thread_time()
            protocol.retrieve_msg(worker)
            spent += time.thread_time() - began
            worker.send(b"x")
        sender.join()
    return spent


def measure(requests: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each reader and size, with microseconds a request of each round."""
    readers: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
        "TorchServe's reader": contextlib.nullcontext,
        "Sightline's reader": ours,
    }
    taken: dict[tuple[str, str], list[float]] = {}
    for name, size in SIZES.items():
        sent = message([(HEADERS, [(b"body", b"image/jpeg", os.urandom(size))])] * requests)
        batches = max(4, BATCHES // len(sent))
        for _ in range(rounds):
            for reader, using in readers.items():
                with using():
                    taken.setdefault((reader, name), []).append(1e6 * read(sent, batches) / batches / requests)
    return [
        {
            "reader": reader,
            "body": body,
            "microseconds": round(statistics.median(each), 1),
            "rounds": [round(value, 1) for value in each],
        }
        for (reader, body), each in taken.items()
    ]


def main(arguments: Sequence[str]) -> int:
    """Measure, print the rows and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args(arguments)
    origin = Origin("wire", arguments, code=("handlers",))
    requests = int(model_config.DEFAULTS["batchSize"])
    rows = measure(requests, options.rounds)
    for row in rows:
        print(f"{row['reader']:>20} {row['body']:>9}  {row['microseconds']:7.1f} us a request")
    document = {
        "benchmark": "wire",
        **origin.document(),
        "batch": requests,
        "number_of_rounds": options.rounds,
        "rows": rows,
    }
    write_json(RESULT, document)
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
