"""The contract of a platform by its variables, the archives of its bucket, and the front before a server."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import fsspec
import httpx
import pytest

from serving import container
from serving.cloud import exchange
from serving.cloud import front as front_module
from serving.cloud.front import Front
from serving.cloud.platform import Platform, PlatformError
from serving.host.state import ServerState, created
from serving.store import signature
from serving.store.model_store import ArchiveError
from tests.server.conftest import CONFIG
from tests.unit.answering_server import Answers, answering
from tests.unit.test_fleet import store_with

VERTEX = {"AIP_HTTP_PORT": "8080", "AIP_HEALTH_ROUTE": "/ping", "AIP_PREDICT_ROUTE": "/predictions/birds"}


def test_variables_say_where_the_container_is() -> None:
    knative = {"PORT": "80", "K_SERVICE": "birds", "AIP_STORAGE_URI": "gs://b"}
    assert Platform.of_environment(knative) is None, "a cluster of somebody else asks nobody who they are"
    assert Platform.of_environment({**VERTEX, "AIP_STORAGE_URI": ""}) == Platform(
        "Vertex AI", 8080, "/ping", "/predictions/birds", None
    )
    assert Platform.of_environment(
        {"SIGHTLINE_PLATFORM": "cloud-run", "PORT": "9000", "AIP_STORAGE_URI": "gs://b"}
    ) == Platform("Cloud Run", 9000, storage="gs://b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"AIP_HTTP_PORT": "8080", "SIGHTLINE_PLATFORM": "aws"},
            "SIGHTLINE_PLATFORM is 'aws': set cloud-run, or unset it",
        ),
        ({"AIP_HTTP_PORT": "http"}, "AIP_HTTP_PORT is 'http': set a port"),
        ({"AIP_HTTP_PORT": "70000"}, "from 1 to 65535"),
        ({"AIP_HEALTH_ROUTE": "ping"}, "AIP_HEALTH_ROUTE is 'ping': upload the model with a path, such as /ping"),
        ({"AIP_PREDICT_ROUTE": "/a b"}, "such as /predictions/birds"),
        ({"AIP_HEALTH_ROUTE": "/predictions/birds"}, "a path of predictions: upload the model with /ping"),
        ({"AIP_HEALTH_ROUTE": "/x", "AIP_PREDICT_ROUTE": "/x"}, "a path of predictions"),
    ],
)
def test_impossible_variables_are_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(PlatformError, match=message):
        Platform.of_environment({**VERTEX, **change})


def test_the_path_of_predictions_leads_to_one_model() -> None:
    default = Platform("Vertex AI", 8080, "/v1/endpoints/7", "/v1/endpoints/7:predict")
    default.check(["birds"])
    assert default.target("/v1/endpoints/7:predict", ["birds"]) == "/predictions/birds"
    for path in ("/v1/models/birds:predict", "/explanations/birds", "/predictions/birds/1.0"):
        assert default.target(path, ["birds"]) == path
    assert default.is_open("/v1/endpoints/7:predict") and default.is_open("/explanations/birds")
    for path in ("/", "/ping", "/models/birds", "/predictions/", "/predictions/a/b/c", "/v1/models/birds"):
        assert not default.is_open(path)
    for platform in (default, Platform("Vertex AI", 8080, "/ping", "/predictions/fish")):
        with pytest.raises(PlatformError, match=r"none of the served models \(birds, moths\): upload the model with"):
            platform.check(["moths", "birds"])
    Platform("Vertex AI", 8080, "/ping", "/predictions/birds").check(["moths", "birds"])
    Platform("Cloud Run", 8080).check(["moths", "birds"])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return the folder of an image without archives."""
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "config.properties").write_text(CONFIG.read_text())
    return tmp_path / "image"


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    """Return the address of a folder with two versions of a model, of which the older one has lost its sidecar."""
    files = fsspec.filesystem("memory")
    for version in ("9.0", "10.0"):
        archive = store_with(tmp_path / "built", version, version.encode())
        signature.path_of(archive).write_text("signed")
        for path in (archive.path, archive.sidecar, signature.path_of(archive)):
            files.pipe_file(f"/models/birds/{path.name}", path.read_bytes())
    files.rm_file("/models/birds/m-9.0.json")
    yield "memory://models/birds"
    files.store.clear()


def test_the_newest_archive_of_the_bucket_is_fetched_with_its_signature(
    image: Path, bucket: str, tmp_path: Path
) -> None:
    (image / signature.PUBLIC_KEY).write_text("a key")
    (home := tmp_path / "home").mkdir()
    assert container.furnish(home, image, [], bucket) == ["m"]
    assert sorted(path.name for path in (home / "model_store").iterdir()) == ["m-10.0.json", "m-10.0.mar", "m-10.0.sig"]
    assert (home / signature.PUBLIC_KEY).read_text() == "a key", "without it nothing would be checked"
    assert "token_expiration_min=525600" in (home / "config.properties").read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m-10.0.mar", b"half of it", "m 10.0 at memory://models/birds is damaged"),
        ("m-11.0.mar", b"", "memory://models/birds has no m-11.0.json: copy it there, its hash is checked"),
    ],
)
def test_a_damaged_archive_of_the_bucket_is_refused(
    name: str, content: bytes, message: str, image: Path, bucket: str, tmp_path: Path
) -> None:
    fsspec.filesystem("memory").pipe_file(f"/models/birds/{name}", content)
    (home := tmp_path / "home").mkdir()
    with pytest.raises(ArchiveError, match=message):
        container.furnish(home, image, [], bucket)
    assert not list((home / "model_store").glob("*.mar"))


def test_a_bucket_without_archives_is_named(image: Path, tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(ArchiveError, match=r"no archive in file://.*: copy one there"):
        container.furnish(home, image, [], f"file://{empty}")


@pytest.fixture(autouse=True)
def _short_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_module, "QUIET_S", 0.05)
    monkeypatch.setattr(exchange, "PAUSE_S", 0.01)


@contextlib.contextmanager
def before(answers: Answers, folder: Path, predict: str = "/predictions/m") -> Iterator[tuple[Front, httpx.Client]]:
    """Put a front before the server of a test; yield it with a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "key_file.json").write_text(json.dumps({"inference": {"key": "secret"}}))
    state = ServerState(os.getpid(), created(os.getpid()), answers.url, "", "", str(folder / "key_file.json"), "")
    with (
        Front(Platform("Vertex AI", port, predict=predict), lambda: True, max_bytes=100) as front,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10) as client,
    ):
        assert client.post(predict, content=b"x").status_code == 503
        assert client.get("/ping").status_code == 503
        with front.opened(state, ["m"]):
            yield front, client


def test_a_front_passes_on_whole_bodies_of_known_and_unknown_length(tmp_path: Path) -> None:
    with answering() as answers, before(answers, tmp_path) as (_, client):
        assert client.get("/ping").status_code == 200
        assert client.post("/predictions/m?top_k=2", content=b"known").json() == {}
        assert client.put("/predictions/m", content=iter([b"un", b"known"])).json() == {}
        for content in (b"x" * 101, iter([b"x" * 60, b"x" * 60])):
            assert client.post("/predictions/m", content=content).json()["type"] == "RequestTooLarge"
        assert client.post("/predictions/m", content=b"later", headers={"Expect": "100-continue"}).json() == {}
        assert answers.bodies == [b"known", b"unknown", b"later"]


def test_a_server_that_fails_is_an_answer(tmp_path: Path) -> None:
    with answering(lambda number: 507) as answers, before(answers, tmp_path) as (_, client):
        assert client.post("/predictions/m", content=b"x").status_code == 507 and len(answers.bodies) == 3
    with answering(lambda number: 507 if number < 2 else 200) as answers, before(answers, tmp_path) as (_, client):
        assert client.post("/predictions/m", content=b"x").status_code == 200
    with before(answers, tmp_path) as (_, client):  # nothing listens there any more
        refused = client.post("/predictions/m", content=b"x")
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"


def test_an_answer_that_never_comes_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "ATTEMPTS_S", (0.2, 0.2, 5.0))
    with answering(stall=lambda number: 10.0 * (number < 1)) as answers, before(answers, tmp_path) as (_, client):
        assert client.post("/predictions/m", content=b"x").status_code == 200 and len(answers.bodies) == 2
    monkeypatch.setattr(exchange, "ATTEMPTS_S", (0.1, 0.1, 0.1))
    with answering(stall=lambda number: 10.0) as answers, before(answers, tmp_path) as (_, client):
        assert client.post("/predictions/m", content=b"x").status_code == 504


def test_a_default_route_is_answered_before_and_after_the_models_are_loaded(tmp_path: Path) -> None:
    with answering() as answers, before(answers, tmp_path, "/v1/endpoints/7:predict") as (_, client):
        assert client.post("/v1/endpoints/7:predict", content=b"x").json() == {}


def test_a_slow_body_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_S", 0.1)
    with answering() as answers, before(answers, tmp_path) as (_, client):
        with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=5) as slow:
            slow.sendall(b"POST /predictions/m HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx")
            assert slow.recv(1_000).startswith(b"HTTP/1.1 408 ")
        assert answers.bodies == []


def test_the_head_of_an_answer_has_no_body(tmp_path: Path) -> None:
    with answering() as answers, before(answers, tmp_path) as (_, client):
        for path, status in (("/ping", 200), ("/models", 404), ("/predictions/m", 405)):
            answer = client.head(path)
            assert (answer.status_code, answer.content) == (status, b"")


def test_no_client_sends_our_own_headers(tmp_path: Path) -> None:
    own = {"X-Sightline-Uncounted": "1", "X-Sightline-Client": "ann", "X-Other": "stays"}
    with answering() as answers, before(answers, tmp_path) as (_, client):
        client.post("/predictions/m", content=b"x", headers=own)
        (head,) = answers.heads
    assert "x-other: stays" in head and "x-sightline" not in head and "authorization: bearer secret" in head


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(PlatformError, match=f"port {port} is taken"),
            Front(Platform("Cloud Run", port), lambda: True, max_bytes=1),
        ):
            pass
