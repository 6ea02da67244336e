"""Reads requests from TorchServe's front end in few system calls.

TorchServe 0.12 reads every length and every field of every header of a request by a separate call, some forty a
request. Here a batch is read through a buffer, field for field as TorchServe's own reader gives it, but that a body
stays the bytes that came, whatever its content type claims. In batches of 8, on a Xeon at 2.5 GHz, a request with a
body of 5 KB takes 20 us of processor time instead of 77, one of 1.1 MB takes 484 instead of 590.

TorchServe then hands the handler a dictionary of a request's fields, in which the last of one name replaces the others;
here the dictionary carries all of them, in the order sent.
"""

import functools
import io
import logging
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

BUFFER = 1 << 16  # bytes: a batch of small images in one call; larger data bypass it
LENGTH = struct.Struct("!i")
KNOWN = "0.12."  # of TorchServe, whose message this is
END = -1  # in place of the next length: the end of a list
SEQUENCE = b"ts_request_sequence_"  # how the names of TorchServe's headers for sequences of requests begin
EACH_BATCH = "Backend received inference at"  # a line a batch, which the front end would read, parse and throw away

Batch = list[dict[str, Any]]


class Row(dict[str, Any]):
    """The fields of one request by name, as TorchServe gives them; `fields` are all of them, in the order sent."""

    def __init__(self, row: dict[str, Any], fields: list[dict[str, Any]]) -> None:
        super().__init__(row)
        self.fields = fields


class Reader:
    """Reads from one connection at a time, each through a new buffer."""

    def __init__(self) -> None:
        self._connection: socket.socket | None = None
        self._stream: io.BufferedIOBase = io.BytesIO()

    def buffer(self, connection: socket.socket, length: int) -> bytearray:
        """Return the next `length` bytes; ends the process where the front end is gone, as TorchServe's own does."""
        data = bytearray(length)
        if self._of(connection).readinto(data) < length:
            _end()
        return data

    def batch(self, connection: socket.socket) -> list[dict[str, Any]]:
        """Return the requests of a batch, whose command has been read, as TorchServe's service takes them."""
        read, unpack, width = self._of(connection).read, LENGTH.unpack, LENGTH.size
        requests: list[dict[str, Any]] = []
        try:
            while (size := unpack(read(width))[0]) != END:
                request: dict[str, Any] = {"requestId": read(size), "headers": [], "parameters": []}
                while (size := unpack(read(width))[0]) != END:
                    request["headers"].append({"name": read(size), "value": read(unpack(read(width))[0])})
                while (size := unpack(read(width))[0]) != END:
                    name, kind = read(size).decode(), read(unpack(read(width))[0]).decode()
                    value = self.buffer(connection, unpack(read(width))[0])
                    request["parameters"].append({"name": name, "contentType": kind, "value": value})
                if _can_be_answered(request):
                    requests.append(request)
        except struct.error:  # a length came short: nothing comes any more, and the field before may be cut
            _end()
        return requests

    def close(self) -> None:
        """Drop the connection, and the data in its buffer."""
        self._connection = None
        self._stream.close()

    def _of(self, connection: socket.socket) -> io.BufferedIOBase:
        if connection is not self._connection:
            self.close()
            self._connection = connection
            self._stream = io.BufferedReader(connection.makefile("rb", buffering=0), BUFFER)
        return self._stream


def install() -> Reader:
    """Patch TorchServe's protocol reader if its version is the one tested; leave another version as it is."""
    import ts
    from ts.protocol import otf_message_handler as protocol
    from ts.service import Service

    reader = Reader()
    if ts.__version__.startswith(KNOWN):
        # The command before a batch is read by the first of them: nothing goes past the buffer.
        protocol._retrieve_buffer = reader.buffer
        protocol._retrieve_inference_msg = reader.batch
        logging.getLogger().addFilter(_is_kept)
        retrieve = Service.retrieve_data_for_inference
        if not isinstance(retrieve, functools.partial):
            Service.retrieve_data_for_inference = staticmethod(functools.partial(_rows, retrieve))
    return reader


def _rows(retrieve: Callable[[Batch], tuple[list[Any], Batch, Any]], batch: Batch) -> tuple[list[Any], Batch, Any]:
    """Return what TorchServe's service makes of a batch, with all fields in each row."""
    headers, rows, ids = retrieve(batch)
    return headers, [Row(row, request["parameters"]) for row, request in zip(rows, batch, strict=True)], ids


def _can_be_answered(request: dict[str, Any]) -> bool:
    """Return whether the front end survives an answer: one to gRPC's StreamPredictions2 may hang the worker's queue.

    It comes with the headers of a sequence and no others. Its client often has closed the stream by then: the front
    end's thread for this worker ends, and nothing starts it again.
    """
    names = [header["name"] for header in request["headers"]]
    if not names or not all(name.startswith(SEQUENCE) for name in names):
        return True
    logging.warning("A request of gRPC's StreamPredictions2 gets no answer: ask Predictions or StreamPredictions.")
    return False


def _is_kept(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(EACH_BATCH)


def _end() -> None:
    logging.info("Frontend disconnected.")
    sys.exit(0)
