"""Deadlines, what is repeated and what never is, and the two kinds of addresses."""

import contextlib
import datetime as dt
import email.utils
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from serving.client import Client, ClientError, DeadlinePassed, RequestRefused, ServerFailed, Unreachable
from serving.client.attempts import ATTEMPTS
from serving.client.connection import LATEST, Connection
from serving.client.deadline import Deadline
from serving.host.state import LOGS, ServerState, created
from tests.unit.answering_server import answering

DEAD = httpx.Response(507, json={"code": 507, "type": "InternalServerException", "message": "Worker died."})
FULL = httpx.Response(503, json={"code": 503, "type": "ServiceUnavailableException", "message": "no worker"})
GOOD = httpx.Response(200, json={"a": 1.0})

Act = httpx.Response | type[httpx.TransportError]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a directory with tokens that never expire."""
    keys = {api: {"key": "secret12"} for api in ("inference", "management")}
    (tmp_path / "key_file.json").write_text(json.dumps(keys))
    return tmp_path


class Play:
    """A server that does one thing after the other, and the last one for ever."""

    def __init__(self, *acts: Act) -> None:
        self.acts, self.calls = acts, 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        act = self.acts[min(self.calls, len(self.acts) - 1)]
        self.calls += 1
        if isinstance(act, httpx.Response):
            return act
        raise act("broken")

    def client(self, root: Path, deadline: float = 5) -> Client:
        return Client(root=root, transport=httpx.MockTransport(self), deadline=deadline)


@pytest.mark.parametrize(
    "act", [DEAD, FULL, httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout], ids=str
)
def test_a_prediction_that_is_lost_is_asked_again(root: Path, act: Act) -> None:
    play = Play(act, act, GOOD)
    with play.client(root) as client:
        assert client.predict(b"x", "m").label == "a"
    assert play.calls == 3


def test_what_reaches_workers_and_fails_does_not_reach_all_of_them(root: Path) -> None:
    play = Play(DEAD)
    with play.client(root) as client, pytest.raises(ServerFailed, match="507: Worker died"):
        client.predict(b"x", "m")
    assert play.calls == ATTEMPTS


def test_a_full_queue_is_waited_for_until_the_deadline(root: Path) -> None:
    play = Play(FULL)
    began = time.monotonic()
    with play.client(root, 1.0) as client, pytest.raises(DeadlinePassed, match="within 1 s; the last was: 503: no w"):
        client.predict(b"x", "m")
    assert 0.4 < time.monotonic() - began < 5 and 2 <= play.calls <= 12


def put_off(after: str, code: int = 503) -> httpx.Response:
    document = {"code": code, "type": "Busy", "message": "others wait"}
    return httpx.Response(code, json=document, headers={"Retry-After": after})


def test_a_request_that_is_put_off_is_sent_again_when_the_server_says(root: Path) -> None:
    play = Play(put_off("1"), put_off("0"), put_off(email.utils.format_datetime(dt.datetime.now(dt.UTC))), GOOD)
    began = time.monotonic()
    with play.client(root) as client:
        assert client.predict(b"x", "m").label == "a"
    assert play.calls == 4 and 1 < time.monotonic() - began < 3


def test_a_request_that_is_put_off_is_sent_again_until_its_deadline(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.client.attempts.FULL", 1)
    play = Play(*[put_off("0")] * 4, GOOD)
    with play.client(root) as client:
        assert client.predict(b"x", "m").label == "a", "no number of repeats ends it"
    play = Play(put_off("10"), GOOD)
    began = time.monotonic()
    with (
        play.client(root) as client,
        pytest.raises(DeadlinePassed, match="no answer within 5 s; the last was: 503: oth"),
    ):
        client.predict(b"x", "m")
    assert play.calls == 1 and time.monotonic() - began < 1, "what cannot be in time is said at once"


@pytest.mark.parametrize("answer", [put_off("soon"), put_off(""), put_off("0", 507)], ids=["soon", "empty", "507"])
def test_no_time_to_wait_is_no_reason_to_wait(root: Path, answer: httpx.Response) -> None:
    play = Play(answer)
    with play.client(root) as client, pytest.raises(ServerFailed):
        client.predict(b"x", "m")
    assert play.calls == ATTEMPTS


def test_a_refusal_is_final(root: Path) -> None:
    play = Play(httpx.Response(415, json={"code": 415, "type": "UnsupportedFormat", "message": "no"}), GOOD)
    with play.client(root) as client, pytest.raises(RequestRefused):
        client.predict(b"x", "m")
    assert play.calls == 1


CHANGES: list[Callable[[Client], None]] = [
    lambda client: client.register("m-1.0.mar"),
    lambda client: client.unregister("m", "1.0"),
    lambda client: client.set_default("m", "1.0"),
    lambda client: client.scale("m", "1.0", 1),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("act", [DEAD, FULL, httpx.ConnectError, httpx.ReadError, httpx.ReadTimeout], ids=str)
def test_a_change_is_never_asked_for_twice(root: Path, change: Callable[[Client], None], act: Act) -> None:
    play = Play(act, GOOD)
    with play.client(root) as client, pytest.raises(ClientError):
        change(client)
    assert play.calls == 1


def test_what_only_reads_is_repeated_but_waits_for_nobody(root: Path) -> None:
    page = httpx.Response(200, json={"models": []})
    play = Play(httpx.ReadError, DEAD, page)
    with play.client(root) as client:
        assert client.models() == [] and play.calls == 3
    for act in (httpx.ConnectError, FULL):
        play = Play(act, page)
        with play.client(root) as client, pytest.raises(ClientError):
            client.models()
        assert play.calls == 1


def test_a_server_that_was_there_may_come_back(root: Path) -> None:
    away = [httpx.ConnectError] * 6
    play = Play(*away, GOOD)
    with play.client(root) as client, pytest.raises(Unreachable, match="start one"):
        client.predict(b"x", "m")
    assert play.calls == 4
    play = Play(GOOD, *away, GOOD)
    with play.client(root) as client:
        client.predict(b"x", "m")
        client.predict(b"x", "m")
    assert play.calls == 8


def test_a_request_that_is_never_answered_is_sent_again_in_time(root: Path) -> None:
    with answering(stall=lambda number: 30.0 if number == 0 else 0.0) as server:
        address = server.url.removesuffix("/predict")
        with Client(root=root, inference=address, management=address) as client:
            began = time.monotonic()
            assert client.predict(b"x", "m", deadline=4).probabilities == {}
            assert 0.95 < time.monotonic() - began < 4
        assert len(server.bodies) == 2


@pytest.mark.parametrize("deadline", [0.1, 0.4, 1.0])
def test_a_call_ends_with_its_deadline(root: Path, deadline: float) -> None:
    with answering(stall=lambda number: 30.0) as server:
        address = server.url.removesuffix("/predict")
        with Client(root=root, inference=address, management=address, deadline=60) as client:
            for call in (
                lambda: client.predict(b"x", "m", deadline=deadline),
                lambda: client.predict_instances([b"x"], "m", deadline=deadline),
                lambda: list(client.predict_many([b"x"], "m", deadline=deadline)),
            ):
                began = time.monotonic()
                with pytest.raises(DeadlinePassed):
                    call()
                assert 0.95 * deadline < time.monotonic() - began < deadline + 5


HEAD = b"HTTP/1.1 200 OK\r\n"
DROPS = {
    "status line": (b"HTTP/1.1 ", b"2"),
    "headers": (HEAD, b"X: y\r\n"),
    "informational": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (HEAD + b"Content-Length: 100000\r\n\r\n", b" "),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])
@pytest.mark.parametrize(("start", "drop"), DROPS.values(), ids=DROPS)
def test_an_answer_in_drops_ends_with_the_deadline(
    root: Path, here: Path, start: bytes, drop: bytes, family: socket.AddressFamily
) -> None:
    with dripping(family, start, drop) as address, Client(root=root, management=address) as client:
        began = time.monotonic()
        with pytest.raises(DeadlinePassed, match=r"did not answer within|no answer within"):
            client.models(deadline=0.5)
        assert 0.45 < time.monotonic() - began < 1


def test_a_request_that_is_taken_in_drops_ends_with_the_deadline(root: Path, here: Path) -> None:
    with dripping(socket.AF_UNIX, b"", b"") as address, Client(root=root, inference=address) as client:
        began = time.monotonic()
        with pytest.raises(DeadlinePassed):
            client.predict(bytes(2**24), "m", deadline=0.5)
        assert 0.45 < time.monotonic() - began < 1


@contextlib.contextmanager
def dripping(family: socket.AddressFamily, start: bytes, drop: bytes) -> Iterator[str]:
    """Run a server that sends `start`, and every 20 ms for ever `drop`; without one it reads 64 KB then."""
    ended = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            connection.sendall(start)
            while not ended.wait(0.02):
                connection.sendall(drop)
                if not drop:
                    connection.recv(65_536)  # so that no single write is late

    with socket.socket(family) as listener:
        listener.bind("drips.sock" if family == socket.AF_UNIX else ("127.0.0.1", 0))
        listener.listen()
        threading.Thread(target=serve, daemon=True).start()
        name = listener.getsockname()
        yield "unix:drips.sock" if family == socket.AF_UNIX else f"http://127.0.0.1:{name[1]}"
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)


def test_a_slow_server_is_asked_once_for_each_request(root: Path) -> None:
    calls: list[float] = []

    def slowly(request: httpx.Request) -> httpx.Response:
        calls.append(request.extensions["timeout"]["read"])
        if calls[-1] < 0.2:
            raise httpx.ReadTimeout("slow")
        return GOOD

    with Client(root=root, transport=httpx.MockTransport(slowly), deadline=0.4) as client:
        client._connection._latencies["inference"].extend([0.15] * LATEST)
        assert client.predict(b"x", "m").label == "a" and len(calls) == 1, "not twice, although 0.1 s are a quarter"
        client._connection._latencies["inference"].extend([0.01] * 12)
        client.predict(b"x", "m")
        assert calls[1] < 0.15, "a fast server that says nothing has lost the request"


@pytest.mark.parametrize("deadline", [0, -1, float("inf"), float("nan")])
def test_a_deadline_is_a_time(root: Path, deadline: float) -> None:
    with Play(GOOD).client(root) as client, pytest.raises(ValueError, match="a deadline of"):
        client.predict(b"x", "m", deadline=deadline)


@contextlib.contextmanager
def operated(path: Path) -> Iterator[list[str]]:
    """Run a server of model lists on a unix socket; return the paths that it was asked for."""
    asked: list[str] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    if request := connection.recv(4096):
                        asked.append(request.split()[1].decode())
                        body = b'{"models": []}'
                        head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
                        connection.sendall(head.encode() + body)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield asked
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    path.unlink()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current directory: a relative path to it is short enough for a socket."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_management_may_be_a_socket(root: Path, here: Path) -> None:
    with Client(root=root, management="unix:m.sock") as client:
        assert client.management == "unix:m.sock"
        with pytest.raises(Unreachable, match=r"no server answers at unix:m\.sock \(.*No such file"):
            client.models()
        with operated(here / "m.sock") as asked:
            assert client.models() == [] and client.models() == []
        assert asked == ["/models", "/models"]
        with socket.socket(socket.AF_UNIX) as left:  # what a killed server leaves behind
            left.bind("m.sock")
        with pytest.raises(Unreachable, match="Connection refused"):
            client.models()


def test_a_socket_s_path_that_is_too_long_is_told(root: Path) -> None:
    with pytest.raises(ClientError, match=r"at most 107 bytes; name it by a shorter one"):
        Client(root=root, management=f"unix:/{'x' * 107}")


def test_a_server_that_was_started_again_is_found(root: Path, here: Path) -> None:
    def started(management: str) -> None:
        me = psutil.Process()
        ServerState(
            pid=me.pid, created=created(me.pid), inference="http://127.0.0.1:9", management=management, metrics="",
            key_file=str(root / "key_file.json"), temporary="",
        ).write(root)  # fmt: skip

    started("unix:first.sock")
    assert (root / LOGS).is_dir()
    with Client(root=root) as client:
        with operated(here / "first.sock"):
            assert client.models() == []
        started("unix:second.sock")
        with operated(here / "second.sock") as asked:
            assert client.models() == []
        assert asked == ["/models"] and client.management == "unix:second.sock"


def test_threads_that_find_a_server_gone_together_all_find_where_it_is_now(root: Path) -> None:
    together = threading.Barrier(4, timeout=30)

    def find() -> tuple[str, str]:
        together.wait()  # all have failed before one has moved
        return "http://new", "http://new"

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "old":
            raise httpx.ConnectError("nobody")
        return httpx.Response(200, json={})

    addresses = ("http://old", "http://old")
    connection = Connection(addresses, root / "key_file.json", find=find, transport=httpx.MockTransport(answer))
    with contextlib.closing(connection), ThreadPoolExecutor(4) as pool:
        found = [
            pool.submit(connection.request, "management", "GET", "/models", deadline=Deadline(30)) for _ in range(4)
        ]
        assert [each.result().code for each in found] == [200] * 4
