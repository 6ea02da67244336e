"""What TorchServe's front end does by itself, as docs/troubleshooting.md says; no handler and no setting changes it."""

import contextlib
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import grpc
import httpx
import pytest

from tests.server.conftest import RunningServer, picture
from tests.server.test_requests import post

PHOTO = picture(1)
INFERENCE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"


def message(number: int, value: bytes) -> bytes:
    """Return a field of a protobuf message: its number, its length and its value."""
    length, size = b"", len(value)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


def question(inputs: Mapping[str, bytes], sequence: bytes = b"") -> bytes:
    """Return a PredictionsRequest: the model's name, its inputs, and the sequence that it belongs to."""
    pairs = (message(1, name.encode()) + message(2, value) for name, value in inputs.items())
    return message(1, b"shapes") + b"".join(message(3, pair) for pair in pairs) + message(4, sequence)


@pytest.fixture
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{7070 + server.state.offset}") as opened:
        yield opened


def key(server: RunningServer) -> dict[str, Any]:
    return {"metadata": [("authorization", server.token()["Authorization"])], "timeout": 30}


def test_a_stream_of_grpc_is_answered_and_costs_no_worker(server: RunningServer, channel: grpc.Channel) -> None:
    pids = server.pids("shapes")
    ask = channel.unary_stream(f"{INFERENCE}StreamPredictions")
    (answer,) = ask(question({"data": PHOTO}), **key(server))
    assert b"triangle" in answer
    (refused,) = ask(question({"data": b"no image"}), **key(server))
    assert b"BadImage" in refused  # gRPC itself says OK: an answer has no status of its own
    assert b"triangle" in channel.unary_unary(f"{INFERENCE}Predictions")(question({"photo": PHOTO}), **key(server))
    assert server.pids("shapes") == pids


def test_a_stream_both_ways_of_grpc_gets_no_answer_and_hangs_no_worker(
    server: RunningServer, channel: grpc.Channel
) -> None:
    pids = server.pids("shapes")
    ask = channel.stream_stream(f"{INFERENCE}StreamPredictions2")
    (refused,) = ask(iter([question({"data": PHOTO})]), **key(server))
    assert b"sequenceId is required" in refused
    for number in range(20):  # answered, one of the first few would end the front end's thread of the worker
        with contextlib.suppress(grpc.RpcError):
            assert list(ask(iter([question({"data": PHOTO}, b"%d" % number)]), **key(server))) == []
        assert post(server, "/predictions/shapes", content=PHOTO).status_code == 200
    assert server.pids("shapes") == pids


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_an_image_sent_as_a_form_of_the_web_gets_500(server: RunningServer, image_format: str) -> None:
    image = picture(2, image_format=image_format)  # curl --data-binary, wget --post-file
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = post(server, "/predictions/shapes", content=image, headers=headers)
    assert (response.status_code, response.json()["type"]) == (500, "ErrorDataDecoderException")
    assert post(server, "/predictions/shapes", content=image).status_code == 200  # another type, or none, helps


@pytest.mark.parametrize("coding", ["base64", "quoted-printable"])
def test_a_part_of_a_form_in_base64_gets_500(server: RunningServer, coding: str) -> None:
    head = (
        f'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\nContent-Transfer-Encoding: {coding}\r\n\r\n'
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = post(server, "/predictions/shapes", content=head.encode() + b"/9j/\r\n--x--\r\n", headers=headers)
    assert response.status_code == 500
    assert response.json()["message"] == f"TransferEncoding Unknown: {coding}"


@pytest.mark.parametrize("start", ["POST {} HTTP/1.1\r\nConnection: close", "POST {} HTTP/1.0"])
def test_a_connection_stays_open_after_an_answer(server: RunningServer, start: str) -> None:
    url = httpx.URL(server.state.inference)
    headers = {"Host": "x", "Content-Length": str(len(PHOTO)), **server.token()}
    lines = "".join(f"\r\n{name}: {value}" for name, value in headers.items())
    with closing(socket.create_connection((url.host, url.port), timeout=30)) as connection:
        connection.sendall((start.format("/predictions/shapes") + lines + "\r\n\r\n").encode() + PHOTO)
        answer = connection.makefile("rb")
        length = next(int(line.split()[1]) for line in answer if line.lower().startswith(b"content-length"))
        while answer.readline().strip():
            pass
        assert len(answer.read(length)) == length
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            answer.read(1)


def test_a_preflight_of_a_browser_is_refused_for_its_token(server: RunningServer) -> None:
    headers = {"Origin": "http://example.org", "Access-Control-Request-Method": "POST"}
    response = httpx.options(f"{server.state.inference}/predictions/shapes", headers=headers, trust_env=False)
    assert (response.status_code, response.json()["type"]) == (400, "InvalidKeyException")


def test_ping_needs_the_token(server: RunningServer) -> None:
    address = f"{server.state.inference}/ping"
    assert httpx.get(address, trust_env=False).json()["type"] == "InvalidKeyException"
    assert httpx.get(address, headers=server.token(), trust_env=False).json() == {"status": "Healthy"}


def test_the_description_tells_whether_a_model_is_ready(server: RunningServer) -> None:
    def get(path: str, **headers: str) -> int:
        address = server.state.inference + path
        return httpx.get(address, headers={**server.token(), **headers}, trust_env=False).status_code

    assert get("/v1/models/shapes") == 404  # TorchServe has it on its management address only
    assert get("/predictions/shapes", describe="True") == 200
    assert get("/predictions/nothing", describe="True") == 404
    with server.operator() as operator:
        ready = operator.get("/v1/models/shapes", headers=server.token("management")).json()
    assert ready == {"name": "shapes", "ready": True}


def test_parameters_of_the_address_reach_no_worker_at_predictions(server: RunningServer) -> None:
    for path in ("/predictions/shapes?top_k=1", "/v1/models/shapes:predict?top_k=1"):
        assert len(post(server, path, content=PHOTO).json()) == 3
    for path in ("/models/shapes/invoke?top_k=1", "/shapes/1.0/predict?top_k=1"):
        assert len(post(server, path, content=PHOTO).json()) == 1
