"""Tokens: read again when they are renewed, renewed before they expire, by one client at a time, and shown nowhere.

The server here is a function that checks tokens and renews them as TorchServe does; a real one is asked elsewhere.
"""

import datetime as dt
import itertools
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from serving.client import Client, ClientError, NoKey, Unreachable
from serving.client.deadline import Deadline
from serving.client.tokens import APIS, RENEWAL, Api, Token, Tokens


class Server:
    """Tokens of `life` seconds in a key file, as TorchServe's; every token starts with `tok-`."""

    def __init__(self, path: Path, life: float) -> None:
        self.path, self.life = path, life
        self.renewals: list[str] = []
        self.left: list[float] = []  # seconds of the old token, when it was renewed
        self.refused = 0
        self.writes = True
        self.numbers = itertools.count()
        self.tokens: dict[str, str] = {}
        self.expires: dict[str, float] = {}
        for name in (*APIS, "API"):
            self.issue(name)
        self.write()

    def issue(self, name: str) -> None:
        self.tokens[name] = f"tok-{next(self.numbers)}"
        self.expires[name] = time.time() + self.life

    def write(self) -> None:
        document: dict[str, dict[str, str]] = {name: {"key": token} for name, token in self.tokens.items()}
        for name in APIS:  # to the nanosecond, as Java does
            until = dt.datetime.fromtimestamp(self.expires[name], dt.UTC)
            document[name]["expiration time"] = f"{until:%Y-%m-%dT%H:%M:%S.%f}789Z"
        self.path.write_text(json.dumps(document))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        if request.url.path == "/token":
            if token != self.tokens["API"]:
                return self.refusal()
            self.renewals.append(request.url.params["type"])
            self.left.append(self.expires[self.renewals[-1]] - time.time())
            self.issue(self.renewals[-1])
            if self.writes:
                self.write()
            return httpx.Response(200, text="\n")
        api = "inference" if request.url.path.startswith("/predictions") else "management"
        if token != self.tokens[api] or time.time() >= self.expires[api]:
            return self.refusal()
        return httpx.Response(200, json={"a": 1.0} if api == "inference" else {"models": []})

    def refusal(self) -> httpx.Response:
        self.refused += 1
        return httpx.Response(400, json={"code": 400, "type": "InvalidKeyException", "message": "Token incorrect"})

    def client(self) -> Client:
        return Client(root=self.path.parent, transport=httpx.MockTransport(self), deadline=5)


@pytest.fixture
def start(tmp_path: Path) -> Callable[[float], Server]:
    """Return a function that starts a server whose tokens live so many seconds."""
    return lambda life: Server(tmp_path / "key_file.json", life)


def test_a_token_is_renewed_before_it_expires_and_not_more_often(start: Callable[[float], Server]) -> None:
    server = start(2.0)
    with server.client() as client:
        ends = time.monotonic() + 6
        while time.monotonic() < ends:
            assert client.predict(b"x", "m").label == "a"
    assert min(server.left) > 0
    # After three quarters of its life each; what asks for predictions renews the other token too.
    assert {api: 2 <= server.renewals.count(api) <= 4 for api in APIS} == {"inference": True, "management": True}


def test_many_clients_renew_once(start: Callable[[float], Server]) -> None:
    server = start(2.0)
    ends = time.monotonic() + 6
    together = threading.Barrier(8)

    def ask(_: int) -> int:
        count = 0
        with server.client() as client:
            together.wait()
            while time.monotonic() < ends:
                client.predict(b"x", "m")
                count += 1
                time.sleep(0.001)
        return count

    with ThreadPoolExecutor(8) as pool:
        assert min(pool.map(ask, range(8))) > 10
    assert len(server.renewals) <= 8


def test_many_clients_that_find_an_expired_token_renew_it_once(start: Callable[[float], Server]) -> None:
    server = start(0.01)
    server.life = 60
    time.sleep(0.02)
    together = threading.Barrier(8)

    def ask(_: int) -> str:
        with server.client() as client:
            together.wait()
            return client.predict(b"x", "m").label

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == ["a"] * 8
    assert sorted(server.renewals) == ["inference", "management"]


@pytest.mark.parametrize(
    "call", [lambda client: client.predict(b"x", "m"), lambda client: client.set_default("m", "1")]
)
def test_a_refused_token_is_read_again_whatever_the_call(
    start: Callable[[float], Server], call: Callable[[Client], object]
) -> None:
    server = start(60)
    with server.client() as client:
        call(client)
        text = server.path.read_text()
        for api in APIS:
            server.issue(api)
        # The file is written a moment after the token is replaced; a half of it is nothing.
        server.path.write_text(text[:50])
        threading.Timer(0.05, server.write).start()
        call(client)
    assert server.refused == 1 and len(server.renewals) <= 1


def test_an_expired_token_is_renewed(start: Callable[[float], Server]) -> None:
    server = start(0.01)
    server.life = 60
    time.sleep(0.02)
    with server.client() as client:
        client.predict(b"x", "m")
        client.models()
    assert server.refused == 0 and sorted(server.renewals) == ["inference", "management"]


def test_a_token_that_cannot_be_renewed_is_used_as_long_as_it_is_taken(start: Callable[[float], Server]) -> None:
    server = start(2)
    renewing = 0

    def deaf(request: httpx.Request) -> httpx.Response:
        nonlocal renewing
        if request.url.path == "/token":
            renewing += 1
            raise httpx.ConnectError("nobody listens")
        return server(request)

    with Client(root=server.path.parent, transport=httpx.MockTransport(deaf), deadline=5) as client:
        while time.time() < server.expires["inference"] - 0.3:
            client.predict(b"x", "m")
            time.sleep(0.001)
        assert renewing == 1  # not with each request
        time.sleep(max(0.0, server.expires["inference"] - time.time()))
        with pytest.raises(
            NoKey, match=r"key_file\.json: it belongs to another server, or has expired and cannot be renewed: no s"
        ):
            client.predict(b"x", "m")


def test_a_copy_of_the_file_is_told(start: Callable[[float], Server]) -> None:
    server = start(0.01)
    server.writes = False
    time.sleep(0.02)
    with server.client() as client, pytest.raises(NoKey, match="is a copy"):
        client.predict(b"x", "m")


def test_the_file_of_another_server_is_told(start: Callable[[float], Server]) -> None:
    server = start(60)
    server.tokens = {name: f"other {name}" for name in server.tokens}
    with server.client() as client, pytest.raises(NoKey, match="the server refuses the API key too"):
        client.predict(b"x", "m")
    assert server.refused == 2


def test_a_lock_that_somebody_holds_for_ever_stops_nobody(
    start: Callable[[float], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr("serving.client.tokens.RENEWAL", 0.1)
    server = start(0.01)
    server.life = 60
    time.sleep(0.02)
    with FileLock(f"{server.path}.lock"), server.client() as client:
        client.predict(b"x", "m")
    assert server.refused == 0


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"inference": {}}', '{"inference": {"key": "a\\nb"}}', '{"inference": {"key": "é"}}', "7"]
)
def test_a_file_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "key_file.json").write_text(text)
    with Client(root=tmp_path) as client, pytest.raises(NoKey, match=r"\(key_file\.json cannot be read\): start one"):
        client.predict(b"x", "m")


@pytest.mark.parametrize(
    ("life", "remaining", "due"),  # seconds
    [(3600, 21, False), (3600, 19, True), (60, 16, False), (60, 14, True), (12, 3.5, False), (12, 2.5, True)],
)
def test_a_token_is_due_20_seconds_or_a_quarter_of_its_life_before_its_end(
    life: float, remaining: float, *, due: bool
) -> None:
    now = time.time()
    token = Token("tok-", now + remaining, now + remaining - life)
    assert token.is_due is due and not token.has_expired


def test_a_token_without_an_end_is_never_due() -> None:
    token = Token("tok-", None, 0.0)
    assert not token.is_due and not token.has_expired


def test_a_token_keeps_the_time_when_it_was_first_seen(start: Callable[[float], Server]) -> None:
    server = start(60)
    with server.client() as client:
        first = client.tokens.current("inference", Deadline(1))
        server.issue("management")
        server.write()
        assert client.tokens.current("inference", Deadline(1)) is first


def test_a_token_that_another_client_renewed_is_not_refused(start: Callable[[float], Server]) -> None:
    server = start(60)
    with server.client() as client:
        client.predict(b"x", "m")
        server.issue("inference")
        server.write()
        client.predict(b"x", "m")
    assert server.refused == 0 and server.renewals == []


def test_a_successor_in_the_file_is_taken_without_waiting_for_the_lock(start: Callable[[float], Server]) -> None:
    from filelock import FileLock

    server = start(60)
    with FileLock(f"{server.path}.lock"), server.client() as client:
        refused = client.tokens.current("inference", Deadline(1))
        server.issue("inference")
        server.write()
        began = time.monotonic()
        assert client.tokens.after_refusal("inference", refused, Deadline(60)).secret == server.tokens["inference"]
        assert time.monotonic() - began < RENEWAL


def test_a_renewal_takes_only_a_part_of_a_long_deadline(start: Callable[[float], Server]) -> None:
    server = start(0.0)
    deadlines: list[float] = []

    def renew(api: Api, token: Token, deadline: Deadline) -> None:
        deadlines.append(deadline.remaining_seconds)
        server.life = 60
        server.issue(api)
        server.write()

    Tokens(server.path, renew).current("inference", Deadline(60))
    assert len(deadlines) == len(APIS) and max(deadlines) <= RENEWAL


def test_a_file_that_is_being_written_is_waited_for(start: Callable[[float], Server]) -> None:
    server = start(60)
    server.path.write_text("")
    threading.Timer(0.05, server.write).start()
    with server.client() as client:
        assert client.predict(b"x", "m").label == "a"


def test_a_file_that_goes_away_is_forgotten_only_with_its_server(start: Callable[[float], Server]) -> None:
    server = start(60)
    with server.client() as client:
        client.predict(b"x", "m")
        server.path.unlink()
        client.predict(b"x", "m")


@pytest.fixture
def failures(start: Callable[[float], Server]) -> list[BaseException]:
    """Return one error of each kind that has to do with a token or came after one was sent."""
    server = start(60)
    found: list[BaseException] = []

    def collect(answer: Callable[[httpx.Request], httpx.Response]) -> None:
        with Client(root=server.path.parent, transport=httpx.MockTransport(answer), deadline=0.3) as client:
            try:
                client.predict(b"x", "m")
            except ClientError as error:
                found.append(error)

    def broken(kind: type[httpx.TransportError]) -> Callable[[httpx.Request], httpx.Response]:
        def fail(request: httpx.Request) -> httpx.Response:
            raise kind("broken", request=request)

        return fail

    for kind in (httpx.ConnectError, httpx.ReadError, httpx.ReadTimeout, httpx.LocalProtocolError):
        collect(broken(kind))
    for code in (400, 404, 500, 503):
        collect(lambda _, code=code: httpx.Response(code, json={"type": "T", "message": "m"}))  # type: ignore[misc]
    collect(lambda _: server.refusal())
    with Client(root=server.path.parent, inference="http://127.0.0.1:9", deadline=0.3) as client:
        try:
            client.predict(b"x", "m")
        except Unreachable as error:
            found.append(error)
    assert len(found) == 10
    return found


def test_nothing_shows_a_token(
    failures: list[BaseException], start: Callable[[float], Server], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = start(60)
    with server.client() as client:
        client.predict(b"x", "m")
        shown = [repr(client), repr(client.tokens), repr(vars(client.tokens)), repr(vars(client)), caplog.text]
        token = client.tokens.current("inference", Deadline(1))
    assert token.secret.startswith("tok-") and isinstance(token, Token)
    for error in failures:
        shown += traceback.TracebackException.from_exception(error, capture_locals=True).format()
    assert "httpx" in caplog.text
    assert not [text for text in shown if "tok-" in text]
