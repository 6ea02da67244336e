"""What clients of all kinds send, and what a real server answers."""

import asyncio
import base64
import contextlib
import gzip
import http.client
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from kserve import InferenceRESTClient, RESTConfig

from handlers.classifier import Classifier
from serving.client import Client, NoKey, NotFound, RequestRefused, Unreachable
from serving.host.ports import Ports, is_free
from serving.host.state import LOGS, ServerState
from tests.server.conftest import CLASSES, CONFIG, MAX_BYTES, RunningServer, picture

PHOTO = picture(1)


def expected(root: Path, model: str, images: list[bytes], top_k: int) -> list[dict[str, float]]:
    """Return what the artifact itself says of images that can be read."""
    answers = Classifier(root / "runs" / model / "model.pt", top_k=top_k).classify(images)
    assert all(isinstance(answer, dict) for answer in answers)
    return [answer for answer in answers if isinstance(answer, dict)]


def same(answer: dict[str, float], other: dict[str, float]) -> bool:
    """Return whether two answers name the same labels in the same order with the same probabilities."""
    return list(answer) == list(other) and answer == pytest.approx(other, abs=1e-5)


def post(server: RunningServer, path: str, *, key: bool = True, **options: object) -> httpx.Response:
    """Send one request as a program without our client would."""
    headers = {**(server.token() if key else {}), **options.pop("headers", {})}  # type: ignore[dict-item]
    return httpx.post(server.state.inference + path, headers=headers, timeout=30, trust_env=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content_type",
    [None, "", "image/jpeg", "image/png", "text/plain", "text/html; charset=latin-1", "application/octet-stream",
     "application/json", "application/x-whatever", "nonsense", "multipart/form-data"],
)  # fmt: skip
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_an_image_body_is_an_image_whatever_its_type(
    server: RunningServer, root: Path, content_type: str | None, image_format: str
) -> None:
    image = picture(3, image_format=image_format)
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = post(server, "/predictions/shapes", content=image, headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert same(response.json(), expected(root, "shapes", [image], 5)[0])


def test_an_image_of_plain_text_is_an_image(server: RunningServer) -> None:
    image = b"P3\n2 2\n255\n" + b"200 20 30 " * 4 + b"\n"
    response = post(server, "/predictions/shapes", content=image, headers={"Content-Type": "text/plain"})
    assert response.status_code == 200, response.text


def test_curl_sends_a_file(server: RunningServer, root: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    key = server.token()["Authorization"]
    command = ["curl", "-sS", "-H", f"Authorization: {key}", f"{server.state.inference}/predictions/shapes"]
    done = subprocess.run([*command, "-T", tmp_path / "photo.jpg"], capture_output=True, check=True, timeout=60)
    assert same(json.loads(done.stdout), expected(root, "shapes", [PHOTO], 5)[0])


def test_an_image_that_came_as_a_form_is_refused_and_harms_nobody(server: RunningServer) -> None:
    # What `curl --data-binary @photo.jpg` sends: TorchServe's front end takes it apart before a worker sees it.
    pids = server.pids("shapes")
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    for image in (PHOTO, picture(2, image_format="PNG")):
        response = post(server, "/predictions/shapes", content=image, headers=headers)
        assert response.status_code in (400, 500) and response.json()["message"]
    readable = post(server, "/predictions/shapes", content=b"\xff\xd8\xff", headers=headers)
    assert readable.status_code == 400 and "curl -T" in readable.json()["message"]
    assert server.pids("shapes") == pids


def test_fewer_classes_than_top_k_give_all_and_more_give_the_best(server: RunningServer) -> None:
    shapes = server.client.predict(PHOTO, "shapes").probabilities
    assert set(shapes) == set(CLASSES["shapes"]) and sum(shapes.values()) == pytest.approx(1, abs=1e-5)
    digits = server.client.predict(PHOTO, "digits").probabilities
    assert len(digits) == 3 and set(digits) < set(CLASSES["digits"])
    for answer in (shapes, digits):
        assert list(answer.values()) == sorted(answer.values(), reverse=True)


def test_the_version_is_in_a_header(server: RunningServer) -> None:
    assert server.client.predict(PHOTO, "digits").version == "2.0"
    assert server.client.predict(PHOTO, "shapes", "1.0").version == "1.0"


def test_the_kserve_client_is_served(server: RunningServer, root: Path) -> None:
    images = [picture(seed) for seed in range(3)]
    document = {"instances": [{"b64": base64.b64encode(image).decode()} for image in images]}

    async def ask() -> dict[str, list[dict[str, float]]]:
        client = InferenceRESTClient(RESTConfig(protocol="v1"))
        answer: dict[str, list[dict[str, float]]] = await client.infer(
            server.state.inference, document, model_name="digits", headers=server.token(), timeout=30
        )
        await client.close()
        return answer

    predictions = asyncio.run(ask())["predictions"]
    for answer, right in zip(predictions, expected(root, "digits", images, 3), strict=True):
        assert same(answer, right)


def test_one_bad_instance_is_an_error_at_its_place(server: RunningServer, root: Path) -> None:
    good = expected(root, "shapes", [PHOTO], 5)[0]
    first, second, third = server.client.predict_instances([PHOTO, b"no image", PHOTO], "shapes")
    assert same(first, good) and same(third, good)
    assert second["error"]["code"] == 400 and second["error"]["message"]


@pytest.mark.parametrize(
    "body",
    ['{"instances": []}', '{"instances": [{"b64": "!"}]}', '{"instances": "x"}', "{", '{"images": []}', "[1]", "7"],
)
def test_json_that_holds_no_images_is_refused(server: RunningServer, body: str) -> None:
    response = post(server, "/v1/models/shapes:predict", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert set(response.json()) == {"code", "type", "message"} and response.json()["message"]


def test_more_instances_than_the_limit_are_too_large(server: RunningServer) -> None:
    with pytest.raises(RequestRefused, match="413") as caught:
        server.client.predict_instances([PHOTO] * 17, "shapes")
    assert caught.value.code == 413


def test_a_form_holds_one_image_or_several(server: RunningServer, root: Path) -> None:
    images = [picture(seed) for seed in range(3)]
    right = expected(root, "shapes", images, 5)
    one = post(server, "/predictions/shapes", files={"photo": ("a.jpg", images[0], "image/jpeg")})
    assert one.status_code == 200 and same(one.json(), right[0])
    files = {f"photo{n}": (f"{n}.jpg", image, "image/jpeg") for n, image in enumerate(images)}
    several = post(server, "/predictions/shapes", files=files)
    assert several.status_code == 200
    for answer, wanted in zip(several.json()["predictions"], right, strict=True):
        assert same(answer, wanted)
    files["photo1"] = ("1.jpg", b"no image", "image/jpeg")
    mixed = post(server, "/predictions/shapes", files=files).json()["predictions"]
    assert same(mixed[0], right[0]) and "error" in mixed[1] and same(mixed[2], right[2])


def test_files_of_one_name_are_an_entry_each_in_the_order_sent(server: RunningServer, root: Path) -> None:
    images = [picture(seed) for seed in range(3)]
    right = expected(root, "shapes", images, 5)
    for names in ("ff", "ffg", "fgf"):
        files = [(name, ("a.jpg", image, "image/jpeg")) for name, image in zip(names, images, strict=False)]
        answers = post(server, "/predictions/shapes", files=files).json()["predictions"]
        assert len(answers) == len(names)
        assert all(same(answer, wanted) for answer, wanted in zip(answers, right, strict=False))


def test_text_of_a_form_is_no_image(server: RunningServer, root: Path) -> None:
    files = {"note": (None, "größe"), "photo": ("a.jpg", PHOTO, "image/jpeg")}
    assert same(post(server, "/predictions/shapes", files=files).json(), expected(root, "shapes", [PHOTO], 5)[0])


def test_a_form_that_is_broken_is_called_so(server: RunningServer) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + PHOTO + b"\r\n"
    for body in (b"", part[:-9], b"--y" + part[3:], part + part[:-9] + bytes(2000)):
        response = post(server, "/predictions/shapes", content=body, headers=form)
        assert response.status_code == 400 and "the form cannot be read" in response.json()["message"]


def test_a_packed_body_is_unpacked_within_the_limits(server: RunningServer, root: Path) -> None:
    packed = {"Content-Encoding": "gzip"}
    answer = post(server, "/predictions/shapes", content=gzip.compress(PHOTO), headers=packed)
    assert same(answer.json(), expected(root, "shapes", [PHOTO], 5)[0])
    bomb = post(server, "/predictions/shapes", content=gzip.compress(bytes(2**24)), headers=packed)
    assert (bomb.status_code, bomb.json()["type"]) == (413, "TooLarge")
    files = {"a": gzip.compress(PHOTO)}
    for options in ({"content": PHOTO, "headers": {"Content-Encoding": "br"}}, {"files": files, "headers": packed}):
        refused = post(server, "/predictions/shapes", **options)
        assert refused.status_code == 415 and "Content-Encoding" in refused.json()["message"]


def test_fewer_labels_are_answered_where_fewer_are_asked_for(server: RunningServer, root: Path) -> None:
    (right,) = expected(root, "shapes", [PHOTO], 1)
    legacy = "/models/shapes/invoke?top_k=1"  # of /predictions/<model> the front end hands no parameters on
    form = {"photo": ("a.jpg", PHOTO, "image/jpeg"), "top_k": (None, "1")}
    for answer in (
        post(server, legacy, content=PHOTO),
        post(server, "/predictions/shapes", content=PHOTO, headers={"top-k": "1"}),
        post(server, "/predictions/shapes", files=form),
    ):
        assert same(answer.json(), right)
    assert len(post(server, "/predictions/digits", content=PHOTO, headers={"top-k": "9"}).json()) == 3
    refused = post(server, "/predictions/shapes", content=PHOTO, headers={"top-k": "0"})
    assert refused.status_code == 400 and "top_k must be" in refused.json()["message"]


def test_one_bad_image_costs_its_batch_nothing(server: RunningServer, root: Path) -> None:
    # `digits` waits until four requests are together: these four, sent at once, are one batch.
    images = [picture(1), b"not an image", picture(2), picture(3)[:400]]
    readable = [images[0], images[2]]
    right = iter(expected(root, "digits", readable, 3))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda image: post(server, "/predictions/digits", content=image), images))
    assert [answer.status_code for answer in answers] == [200, 400, 200, 400]
    for image, answer in zip(images, answers, strict=True):
        if image in readable:
            assert same(answer.json(), next(right))
        else:
            assert answer.json()["code"] == 400 and answer.json()["type"] and answer.json()["message"]


def test_too_many_bytes_are_refused_by_the_model(server: RunningServer) -> None:
    with pytest.raises(RequestRefused) as caught:
        server.client.predict(PHOTO + bytes(MAX_BYTES), "shapes")
    assert caught.value.code == 413 and caught.value.kind == "TooLarge"


def test_a_request_above_the_server_s_limit_is_refused_from_its_header(server: RunningServer) -> None:
    url = httpx.URL(server.state.inference)
    connection = http.client.HTTPConnection(url.host, url.port, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/predictions/shapes")
        for name, value in (("Content-Length", str(30 * 2**20)), ("Expect", "100-continue"), *server.token().items()):
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.getresponse().status == 413


@pytest.mark.parametrize("key", [{}, {"Authorization": "Bearer wrong123"}, {"Authorization": "wrong"}])
@pytest.mark.parametrize("path", ["/predictions/shapes", "/v1/models/shapes:predict", "/ping"])
def test_without_its_token_nothing_is_answered(server: RunningServer, path: str, key: dict[str, str]) -> None:
    method = "GET" if path == "/ping" else "POST"
    response = httpx.request(method, server.state.inference + path, headers=key, content=PHOTO, trust_env=False)
    assert 400 <= response.status_code < 500 and "predictions" not in response.text


def test_the_management_api_is_the_operator_s_alone(server: RunningServer) -> None:
    socket = Path(server.state.management.removeprefix("unix:"))
    assert socket.is_socket() and socket.parent.stat().st_mode & 0o077 == 0
    assert (server.root / LOGS / "management.sock").resolve() == socket.resolve()
    with server.operator() as operator:
        for headers in ({}, server.token("inference")):
            assert operator.get("/models", headers=headers).status_code == 400
        assert operator.get("/models", headers=server.token("management")).is_success
    assert is_free(Ports.of_config(CONFIG.read_text()).moved(server.state.offset).all()[1])
    for address in (server.state.inference, server.state.metrics):  # no other door leads there
        response = httpx.get(f"{address}/models", headers=server.token("management"), trust_env=False)
        assert response.status_code >= 400


def test_a_model_describes_itself(server: RunningServer) -> None:
    described = server.client.description("shapes")
    assert described["classes"] == list(CLASSES["shapes"]) and described["version"] == "1.0"
    asked = post(server, "/predictions/shapes", content=b"", headers={"describe": "True"})  # as any client may
    assert set(asked.json()) == {"classes", "preprocess", "version", "top_k", "precision"}


def test_several_models_answer_each_for_itself(server: RunningServer, root: Path) -> None:
    assert sorted(server.client.models()) == ["digits", "shapes"]
    for model, top_k in (("shapes", 5), ("digits", 3)):
        (right,) = expected(root, model, [PHOTO], top_k)
        assert same(server.client.predict(PHOTO, model).probabilities, right)


def test_many_answers_come_in_the_order_asked(server: RunningServer, root: Path) -> None:
    images = [picture(seed) for seed in range(12)]
    right = iter(expected(root, "shapes", images, 5))
    asked = [*images[:5], b"bad", *images[5:]]
    answers = list(server.client.predict_many(iter(asked), "shapes"))
    assert len(answers) == 13
    assert isinstance(answers.pop(5), RequestRefused)
    for answer in answers:
        assert not isinstance(answer, RequestRefused) and same(answer.probabilities, next(right))


def test_the_client_tells_its_errors_apart(server: RunningServer, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing"):
        server.client.predict(PHOTO, "nothing")
    with pytest.raises(NotFound):
        server.client.predict(PHOTO, "shapes", "9.9")
    with pytest.raises(NotFound):
        list(server.client.predict_many([PHOTO], "nothing"))
    wrong = tmp_path / "key_file.json"
    wrong.write_text(json.dumps({"inference": {"key": "wrong123"}}))
    with Client(inference=server.state.inference, key_file=wrong) as client, pytest.raises(NoKey, match="refuses"):
        client.predict(PHOTO, "shapes")
    with Client(root=tmp_path, key_file=tmp_path / "none.json") as client, pytest.raises(NoKey, match="cannot be read"):
        client.predict(PHOTO, "shapes")
    with (
        Client(inference="http://127.0.0.1:9", key_file=Path(server.state.key_file)) as client,
        pytest.raises(Unreachable, match="no server answers"),
    ):
        client.predict(PHOTO, "shapes")


def test_the_client_finds_the_server_of_its_directory(server: RunningServer) -> None:
    known = ServerState.read(server.root)
    assert known is not None
    with Client(root=server.root) as client:
        assert (client.inference, client.management, str(client.key_file)) == (
            known.inference,
            known.management,
            known.key_file,
        )
