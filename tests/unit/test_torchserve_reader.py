"""Reading a batch through a buffer gives what TorchServe's own reader gives."""

import importlib.util
import logging
import random
import socket
import struct
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest

from handlers import torchserve_reader

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"unclosed file .*version\.txt")  # the package leaves it open
    from ts.protocol import otf_message_handler as protocol
    from ts.service import Service

Connected = tuple[socket.socket, socket.socket]
Part = tuple[bytes, bytes, bytes]  # a field's name, content type and value


def field(value: bytes) -> bytes:
    """Return a field as it is sent over the socket, its length first."""
    return struct.pack("!i", len(value)) + value


def message(requests: Iterable[tuple[Mapping[bytes, bytes], Iterable[Part]]]) -> bytes:
    """Return a batch as the front end sends it: the headers of each request, and its fields."""
    end = struct.pack("!i", torchserve_reader.END)
    data = b"I"
    for number, (headers, parts) in enumerate(requests):
        data += field(f"{number:036d}".encode())
        data += b"".join(field(name) + field(value) for name, value in headers.items()) + end
        data += b"".join(field(value) for part in parts for value in part) + end
    return data + end


def batch(seed: int) -> bytes:
    """Return a batch of random requests: none, small and large bodies, forms of several fields, no headers at all."""
    draw = random.Random(seed)
    requests = []
    for _ in range(draw.randrange(9)):
        headers = {
            b"h%d" % each: draw.randbytes(draw.randrange(40)).hex().encode() for each in range(draw.randrange(6))
        }
        sizes = [
            draw.choice((0, 1, 5_000, torchserve_reader.BUFFER, 300_000)) for _ in range(draw.choice((0, 1, 1, 1, 3)))
        ]
        parts = [(b"f%d" % each, b"image/jpeg", draw.randbytes(size)) for each, size in enumerate(sizes)]
        requests.append((headers, parts))
    return message(requests)


@pytest.fixture
def connected() -> Iterator[Connected]:
    front_end, worker = socket.socketpair(socket.AF_UNIX)
    with closing(front_end), closing(worker):
        worker.settimeout(60)
        yield front_end, worker


@pytest.fixture
def installed() -> Iterator[None]:
    """Read through the buffer within a test, and as before after it."""
    names = ("_retrieve_buffer", "_retrieve_inference_msg")
    before = {name: getattr(protocol, name) for name in names}
    fold = Service.retrieve_data_for_inference
    try:
        with closing(torchserve_reader.install()):
            yield
    finally:
        for name, value in before.items():
            setattr(protocol, name, value)
        Service.retrieve_data_for_inference = staticmethod(fold)


class Counted(socket.socket):
    """A socket that counts how often it is read."""

    calls = 0

    def recv(self, *arguments: Any) -> bytes:
        self.calls += 1
        return super().recv(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        self.calls += 1
        return super().recv_into(*arguments)


def send(front_end: socket.socket, data: bytes, piece: int) -> threading.Thread:
    def run() -> None:
        for start in range(0, len(data), piece):
            front_end.sendall(data[start : start + piece])

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def read(connected: Connected, data: bytes, batches: int, piece: int = 1 << 20) -> list[Any]:
    """Return what the worker reads where the front end sends `data`."""
    front_end, worker = connected
    thread = send(front_end, data, piece)
    found = [protocol.retrieve_msg(worker) for _ in range(batches)]
    thread.join()
    return found


def theirs(data: bytes, batches: int) -> list[Any]:
    """Return what TorchServe's own reader makes of the same: that of a module in which nothing is installed."""
    spec = importlib.util.find_spec("ts.protocol.otf_message_handler")
    assert spec is not None and spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    front_end, worker = socket.socketpair(socket.AF_UNIX)
    with closing(front_end), closing(worker):
        thread = send(front_end, data, 1 << 20)
        found = [fresh.retrieve_msg(worker) for _ in range(batches)]
        thread.join()
    return found


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("piece", [4096, 1 << 20])
def test_what_is_read_is_what_torchserve_reads(connected: Connected, piece: int) -> None:
    data = b"".join(map(batch, range(12)))
    found = read(connected, data, 12, piece)
    assert found == theirs(data, 12)
    assert any(len(requests) > 1 for _, requests in found)


@pytest.mark.usefixtures("installed")
def test_a_batch_of_small_images_takes_few_calls(connected: Connected) -> None:
    front_end, worker = connected
    data = message([({b"name": b"value"}, [(b"body", b"image/jpeg", b"x" * 5000)])] * 8)
    thread = send(front_end, data, len(data))
    thread.join()  # all of it is there
    with closing(Counted(fileno=worker.detach())) as counted:
        _, requests = protocol.retrieve_msg(counted)
        assert len(requests) == 8 and counted.calls <= 2


@pytest.mark.usefixtures("installed")
def test_what_comes_in_small_pieces_is_whole(connected: Connected) -> None:
    data = message([({b"name": b"value"}, [(b"body", b"image/jpeg", b"x" * 99)])] * 3)
    assert read(connected, 2 * data, 2, piece=1) == theirs(2 * data, 2)


@pytest.mark.usefixtures("installed")
def test_a_body_is_the_bytes_that_came(connected: Connected) -> None:
    """TorchServe parses JSON and decodes text where `decode_input_request` is not false."""
    parts = [(b"body", b"application/json", b'{"instances": []}'), (b"more", b"text/plain", b"a")]
    [(_, [request])] = read(connected, message([({}, parts)]), 1)
    assert [part["value"] for part in request["parameters"]] == [b'{"instances": []}', b"a"]
    assert all(type(part["value"]) is bytearray for part in request["parameters"])  # torch.frombuffer wants to write


@pytest.mark.usefixtures("installed")
def test_a_row_carries_every_field_of_a_request(connected: Connected) -> None:
    parts = [(b"f", b"image/png", b"1"), (b"g", b"", b"2"), (b"f", b"image/png", b"3")]
    [(_, requests)] = read(connected, message([({b"Host": b"x"}, parts), ({}, [])]), 1)
    torchserve_reader.install()  # again: what is installed already is not installed over itself
    _, rows, ids = Service.retrieve_data_for_inference(requests)
    assert rows == [{"f": b"3", "g": b"2"}, {}] and len(ids) == 2
    assert [(field["name"], field["value"]) for field in rows[0].fields] == [("f", b"1"), ("g", b"2"), ("f", b"3")]
    assert rows[1].fields == []


@pytest.mark.usefixtures("installed")
def test_a_request_whose_answer_would_hang_the_worker_is_left_out(connected: Connected) -> None:
    parts = [(b"data", b"", b"1")]
    sequence = {b"ts_request_sequence_id": b"1", b"ts_request_sequence_end": b"true"}  # gRPC's StreamPredictions2
    web = {**sequence, b"Host": b"x"}
    [(_, requests)] = read(connected, message([(sequence, parts), (web, parts), ({}, parts), (sequence, parts)]), 1)
    assert [len(request["headers"]) for request in requests] == [3, 0]
    assert read(connected, message([(sequence, parts)]), 1) == [(b"I", [])]


@pytest.mark.usefixtures("installed")
def test_another_connection_has_a_buffer_of_its_own(connected: Connected) -> None:
    first = read(connected, batch(1) + b"left behind", 1)
    other = socket.socketpair(socket.AF_UNIX)
    with closing(other[0]), closing(other[1]):
        assert read(other, batch(1), 1) == first


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("kept", [0, 1, 3, 40, 4000])
def test_a_front_end_that_is_gone_ends_the_worker(connected: Connected, kept: int) -> None:
    front_end, worker = connected
    front_end.sendall(message([({b"name": b"value"}, [(b"body", b"", b"x" * 9000)])])[:kept])
    front_end.close()
    with pytest.raises(SystemExit) as raised:
        protocol.retrieve_msg(worker)
    assert raised.value.code == 0


@pytest.mark.usefixtures("installed")
def test_the_line_of_each_batch_is_left_out_and_no_other(
    connected: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        read(connected, batch(1), 1)
        logging.info("Torch worker started.")
    assert [record.getMessage() for record in caplog.records] == ["Torch worker started."]
