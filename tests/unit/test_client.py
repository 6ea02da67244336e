"""What the client makes of answers that a healthy server does not give; the others are asked of a real one."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from handlers.sampling import CANARY, Share, is_selected
from serving.client import Client, ClientError, NoKey, Prediction, RequestRefused, ServerFailed, Unreachable
from serving.client.canary import Canary

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def ask(tmp_path: Path) -> Callable[[Handler], Client]:
    """Return a function that makes a client of a server that is one function."""
    keys = {"inference": {"key": "first123"}, "management": {"key": "second12"}}
    (tmp_path / "key_file.json").write_text(json.dumps(keys))
    return lambda handler: Client(root=tmp_path, transport=httpx.MockTransport(handler))


def test_each_api_gets_its_own_token_and_a_renewed_one_is_seen(
    ask: Callable[[Handler], Client], tmp_path: Path
) -> None:
    seen: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.path, request.headers["Authorization"]))
        document: object = {"models": []} if request.url.path == "/models" else {"a": 0.75, "b": 0.25}
        return httpx.Response(200, json=document, headers={"model-version": "3.1", "model-commit": "0a1b2c3"})

    with ask(answer) as client:
        assert client.predict(b"x", "m") == Prediction({"a": 0.75, "b": 0.25}, "3.1", commit="0a1b2c3")
        assert client.models() == []
        (tmp_path / "key_file.json").write_text(json.dumps({"inference": {"key": "renewed1"}}))
        assert client.predict(b"x", "m", "2.0").label == "a"
        with pytest.raises(NoKey, match=r"key_file\.json cannot be read"):
            client.models()
    assert seen == [
        ("/predictions/m", "Bearer first123"),
        ("/models", "Bearer second12"),
        ("/predictions/m/2.0", "Bearer renewed1"),
    ]


def test_a_canary_answers_its_share_and_the_default_version_what_it_fails_to_answer(
    ask: Callable[[Handler], Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.sampling.PERIOD", 0.0)
    seen: list[tuple[str, str]] = []
    statuses = {"/predictions/m/2.0": 200, "/predictions/m": 200}

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        seen.append((path, request.headers.get("x-request-id", "")))
        failure = {"code": 500, "type": "NoAnswer", "message": "no\nnumbers"}
        good = statuses[path] == 200
        return httpx.Response(statuses[path], json={"a": 1.0} if good else failure)

    def requests(client: Client, count: int = 300) -> Counter[str]:
        seen.clear()
        for _ in range(count):
            client.predict(b"x", "m")
        return Counter(path for path, _ in seen)

    files = Canary(tmp_path / "logs")
    with ask(answer) as client:
        assert requests(client) == {"/predictions/m": 300} and not any(one for _, one in seen)
        files.file("m").write(Share("2.0", 0.25))
        counts = requests(client)
        assert counts.total() == 300 and 45 <= counts["/predictions/m/2.0"] <= 105
        assert all(is_selected(one, 0.25, CANARY) == path.endswith("2.0") for path, one in seen)
        seen.clear()
        client.predict(b"x", "m", counted=False)
        assert seen == [("/predictions/m", "")], "golden images are no requests of clients"
        assert not files.failures("m").exists()
        statuses["/predictions/m/2.0"] = 400
        counts = requests(client)
        assert counts["/predictions/m"] == 300 and len({one for _, one in seen}) == 300
        lines = files.failures("m").read_text().splitlines()
        assert lines == ["400 NoAnswer: no numbers"] * counts["/predictions/m/2.0"]
        statuses["/predictions/m"] = 400  # a bad request is no fault of the version
        with pytest.raises(RequestRefused):
            requests(client)
        assert files.failures("m").read_text().splitlines() == lines
        files.file("m").remove()
        statuses["/predictions/m"] = 200
        assert requests(client) == {"/predictions/m": 300}
        client.predict(b"x", "m", request_id="mine")
        assert seen[-1] == ("/predictions/m", "mine")


def test_a_canary_has_half_of_the_time(
    ask: Callable[[Handler], Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: dict[str, float] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        times.setdefault(request.url.path, request.extensions["timeout"]["read"])
        return httpx.Response(500 if request.url.path.endswith("2.0") else 200, json={"a": 1.0})

    monkeypatch.setattr("serving.client.attempts.MAX_PAUSE_S", 0.0)
    Canary(tmp_path / "logs").file("m").write(Share("2.0", 1.0))
    with ask(answer) as client:
        client.predict(b"x", "m", deadline=8.0)
    # The first attempt of a call has a quarter of its time.
    assert times["/predictions/m/2.0"] == pytest.approx(1.0, abs=0.1)
    assert times["/predictions/m"] == pytest.approx(2.0, abs=0.1)


def test_a_list_of_models_has_pages(ask: Callable[[Handler], Client]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        start = int(request.url.params.get("next_page_token", 0))
        page = {"models": [{"modelName": f"m{n}"} for n in range(start, start + 2)]}
        return httpx.Response(200, json=page | ({"nextPageToken": str(start + 2)} if start < 4 else {}))

    with ask(answer) as client:
        assert client.models() == ["m0", "m1", "m2", "m3", "m4", "m5"]


@pytest.mark.parametrize(
    ("response", "kind", "text"),
    [
        (httpx.Response(503, json={"code": 503, "type": "X", "message": "queue is full"}), ServerFailed, "503: queue"),
        (httpx.Response(507, text="out of memory"), ServerFailed, "507: out of memory"),
        (httpx.Response(200, text="<html>"), ServerFailed, "not JSON"),
        (httpx.Response(413, text=""), RequestRefused, "413 Request Entity Too Large: .*max_request_size"),
        (httpx.Response(400, json=["x"]), RequestRefused, "400 Bad Request"),
        (
            httpx.Response(400, json={"code": 400, "type": "InvalidKeyException", "message": ""}),
            NoKey,
            "refuses the token",
        ),
    ],
)
def test_each_failure_is_an_error_of_its_kind(
    ask: Callable[[Handler], Client], response: httpx.Response, kind: type[Exception], text: str
) -> None:
    with ask(lambda _: response) as client, pytest.raises(kind, match=text) as caught:
        client.predict(b"x", "m")
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout("slow"), httpx.ReadError("reset"), httpx.RemoteProtocolError("cut")]
)
def test_a_connection_that_breaks_is_unreachable(ask: Callable[[Handler], Client], error: httpx.TransportError) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    with ask(fail) as client, pytest.raises(Unreachable):
        client.predict(b"x", "m")


def test_many_read_only_as_far_ahead_as_needed(ask: Callable[[Handler], Client]) -> None:
    read = 0

    def images() -> object:
        nonlocal read
        for number in range(100):
            read += 1
            yield str(number).encode()

    with ask(lambda request: httpx.Response(200, json={request.content.decode(): 1.0})) as client:
        answers = client.predict_many(images(), "m", concurrency=2)  # type: ignore[arg-type]
        first = next(answers)
        assert isinstance(first, Prediction) and first.label == "0" and read <= 6
        rest = [each.label for each in answers if isinstance(each, Prediction)]
    assert rest == [str(number) for number in range(1, 100)]


def test_many_end_at_a_failure_that_is_no_refusal(ask: Callable[[Handler], Client]) -> None:
    with ask(lambda _: httpx.Response(503, text="")) as client, pytest.raises(ServerFailed):
        list(client.predict_many([b"x"] * 3, "m"))


def test_many_that_are_broken_off_are_not_asked_any_more(ask: Callable[[Handler], Client]) -> None:
    asked, released = [], threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.content)
        assert len(asked) == 1 or released.wait(30)
        return httpx.Response(200, json={"a": 1.0})

    with ask(answer) as client:
        answers = client.predict_many([b"x"] * 9, "m", concurrency=1)
        next(answers)
        timer = threading.Timer(1.0, released.set)  # while it is being closed
        timer.start()
        answers.close()  # type: ignore[attr-defined]
        timer.join()
    assert len(asked) <= 2


def test_where_no_server_was_started_the_usual_ports_are_asked_moved_as_all_verbs_move_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIGHTLINE_PORT_OFFSET", raising=False)
    with Client(root=tmp_path) as client:
        assert (client.inference, client.management) == ("http://127.0.0.1:8080", "http://127.0.0.1:8081")
    monkeypatch.setenv("SIGHTLINE_PORT_OFFSET", "300")
    with Client(root=tmp_path, management="unix:m.sock") as client:
        assert (client.inference, client.management) == ("http://127.0.0.1:8380", "unix:m.sock")
    monkeypatch.setenv("SIGHTLINE_PORT_OFFSET", "much")
    with pytest.raises(ClientError, match="SIGHTLINE_PORT_OFFSET is 'much'"):
        Client(root=tmp_path)
    with Client(root=tmp_path, inference="http://127.0.0.1:1", management="unix:m.sock"):
        pass
