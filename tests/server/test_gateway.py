"""The gateway: a real Envoy in front of the session's real server."""

import asyncio
import base64
import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.gateway import fuzz
from handlers.observation import slot
from handlers.observation.counters import SUFFIX, Snapshot
from handlers.observation.slot import UNCOUNTED_HEADER
from serving import archive
from serving.client.deadline import Deadline
from serving.gateway import canary_log, clients
from serving.gateway.clients import FILE, GatewayClient, GatewayClients, hash_of
from serving.gateway.envoy import ACCESS_LOG
from serving.gateway.gateway import Gateway
from serving.lifecycle import launch
from serving.store import model_store
from tests.server import faulty, gateways
from tests.server.conftest import RunningServer
from tests.server.gateways import PHOTO, RATE, RunningGateway, free_address
from tests.until import until


@pytest.fixture(scope="module")
def gateway(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with gateways.running(tmp_path_factory.mktemp("gateway"), [server.root]) as running:
        yield running


def test_an_answer_is_that_of_the_server_with_its_version(gateway: RunningGateway, server: RunningServer) -> None:
    direct = server.client.predict(PHOTO, "shapes")
    assert direct.commit == model_store.find("shapes", "1.0", server.root / "model_store").provenance()["commit"]
    for path in ("/predictions/shapes", "/predictions/shapes/1.0"):
        answer = gateway.predict(path)
        assert answer.status_code == 200 and answer.json() == direct.probabilities
        assert answer.headers["model-version"] == "1.0" and answer.headers["server"] == "sightline"
        assert answer.headers.get("model-commit") == direct.commit
    assert gateway.session.put("/predictions/shapes", content=PHOTO, auth=("ann", gateway.key)).status_code == 200
    explained = gateway.predict("/explanations/shapes", headers={"accept": "application/json"})
    assert explained.status_code == 200 and "map" in explained.json()


def curl(gateway: RunningGateway, key: str, *options: str) -> tuple[str, str]:
    """Return what curl prints of a prediction, and the status of the answer or, without one, 000."""
    command = ["curl", "-s", "--user", f"ann:{key}", "--cacert", str(gateway.folder / "tls.crt"), "-w", " %{http_code}"]
    url = f"https://localhost:{gateway.address.port}/predictions/shapes"
    done = subprocess.run([*command, *options, url], capture_output=True, text=True, timeout=30)
    answer, _, code = done.stdout.rpartition(" ")
    return answer, code


def test_what_curl_sends_is_answered(gateway: RunningGateway) -> None:
    photo = gateway.root / "photo.jpg"
    photo.write_bytes(PHOTO)
    version = ["--http2-prior-knowledge"]
    for sent in (["-T", str(photo)], ["--data-binary", f"@{photo}"], ["-F", f"data=@{photo}"], [*version, "-T", photo]):
        answer, code = curl(gateway, gateway.key, *map(str, sent))
        assert code == "200" and "circle" in answer, (sent, answer, code)


def test_curl_shows_why_an_upload_is_refused(gateway: RunningGateway) -> None:
    body = gateway.root / "body"
    for size in (3_000, 300_000, 3_000_000, 30_000_000):
        body.write_bytes(bytes(size))
        for _ in range(5):
            answer, code = curl(gateway, "wrong", "-T", str(body))
            assert code == "401", answer
    assert curl(gateway, gateway.key, "-T", str(body))[1] == "413"


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], "h2"), ([], None)])
def test_http_2_is_for_clients_of_nothing_else(gateway: RunningGateway, offered: list[str], chosen: str | None) -> None:
    context = ssl.create_default_context(cafile=str(gateway.folder / "tls.crt"))
    context.set_alpn_protocols(offered)
    with (
        socket.create_connection((gateway.address.host, gateway.address.port), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as secure,
    ):
        assert secure.selected_alpn_protocol() == chosen


def test_without_a_valid_key_nothing_reaches_a_node(gateway: RunningGateway) -> None:
    expired = GatewayClient(hash_of("old"), RATE, time.time() - 1)
    GatewayClients.update(gateway.root, lambda entries: entries.update(old=expired))
    bob = clients.add(gateway.root, "bob")
    until(lambda: gateway.predict(auth=("bob", bob)).status_code == 200, 2)
    clients.revoke(gateway.root, "bob")
    until(lambda: gateway.predict(auth=("bob", bob)).status_code == 401, 2)
    before = gateway.reached()
    for auth in (
        None,
        ("ann", "wrong"),
        ("ann", ""),
        ("old", "old"),
        ("bob", bob),
        ("nobody", ""),
        ("nobody", "\0" * 20),
    ):
        answer = gateway.predict(auth=auth)
        assert answer.status_code == 401 and answer.json()["code"] == 401
    assert gateway.predict(auth=None, headers={"x-sightline-client": "ann"}).status_code == 401
    assert gateway.predict(auth=None, headers={"authorization": "Bearer x"}).status_code == 401
    with pytest.raises(clients.ClientsError, match="no name of a client"):
        clients.add(gateway.root, "nobody")
    assert gateway.reached() == before
    assert gateway.key not in (gateway.root / FILE).read_text()


@pytest.mark.parametrize(
    "path",
    [
        "/models",
        "/models/shapes",
        "/models?url=x.mar",
        "/metrics",
        "/token?type=management",
        "/v1/models/shapes/versions",
        "/predictions",
        "/predictions/",
        "/predictions/shapes/1.0/more",
        "/predictions/../models",
        "/predictions/%2e%2e/models",
        "/predictions/..%2fmodels",
        "/predictions/shapes%2f1.0",
        "/predictions/..;/models",
        "//models",
        "/predictions//../../models",
    ],
)
def test_other_paths_reach_no_node(gateway: RunningGateway, path: str) -> None:
    before = gateway.reached()
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        code = raw_request(gateway, method, path)
        assert code in (400, 404), (method, path, code)
    assert gateway.reached() == before


def test_only_post_and_put_reach_a_model(gateway: RunningGateway) -> None:
    before = gateway.reached()
    for method in ("GET", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert raw_request(gateway, method, "/predictions/shapes") in (400, 404)
    assert gateway.reached() == before


def opened(gateway: RunningGateway) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(gateway.root / "logs/gateway/tls.crt"))
    plain = socket.create_connection((gateway.address.host, gateway.address.port), timeout=10)
    return context.wrap_socket(plain, server_hostname="localhost")


def authorization(gateway: RunningGateway) -> str:
    return "Basic " + base64.b64encode(f"ann:{gateway.key}".encode()).decode()


def raw(gateway: RunningGateway, request: bytes) -> list[int]:
    """Return the statuses of all answers to what is sent over one connection, as it is."""
    with opened(gateway) as connection:
        connection.sendall(request)
        received = b""
        connection.settimeout(2)
        try:
            while part := connection.recv(65536):
                received += part
        except (TimeoutError, ConnectionError):
            pass
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


def raw_request(gateway: RunningGateway, method: str, path: str) -> int:
    """Return the status of a request whose path no client has normalised."""
    context = ssl.create_default_context(cafile=str(gateway.root / "logs/gateway/tls.crt"))
    connection = http.client.HTTPSConnection("localhost", gateway.address.port, timeout=10, context=context)
    with contextlib.closing(connection):
        connection.request(method, path, headers={"Authorization": authorization(gateway)})
        return connection.getresponse().status


HEAD = "POST /predictions/shapes HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\n"
HIDDEN = "GET /models HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "rest",
    [
        f"Content-Length: {len(HIDDEN)}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
        f"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n{HIDDEN}0\r\n\r\n",
        f"Transfer-Encoding: xchunked\r\nContent-Length: 4\r\n\r\n{HIDDEN}",
        f"Transfer-Encoding : chunked\r\nContent-Length: 4\r\n\r\n{HIDDEN}",
        f"Content-Length: 0\r\nContent-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}",
        f"Content-Length: +{len(HIDDEN)}\r\n\r\n{HIDDEN}",
        f"Content-Length: 4\r\n Transfer-Encoding: chunked\r\n\r\n{HIDDEN}",
    ],
)
def test_a_request_that_hides_another_is_refused_whole(gateway: RunningGateway, rest: str) -> None:
    before = gateway.reached()
    codes = raw(gateway, (HEAD.format(authorization(gateway)) + rest).encode())
    assert codes == [400] and gateway.reached() == before


def test_a_body_or_header_that_is_too_large_is_refused(gateway: RunningGateway) -> None:
    before = gateway.reached()
    assert gateway.predict(content=b"x" * 26_300_000).status_code == 413
    start = time.monotonic()
    announced = f"{HEAD.format(authorization(gateway))}Content-Length: 30000000\r\n\r\nbegun"
    assert raw(gateway, announced.encode()) == [413] and time.monotonic() < start + 4  # before the body has come
    assert gateway.predict(headers={"x-long": "x" * 20_000}).status_code == 431
    assert gateway.predict(headers={f"x-{number}": "x" for number in range(200)}).status_code == 431
    assert gateway.predict(headers={"model_version": "2.0"}).status_code == 400
    assert gateway.reached() == before


def test_a_client_gets_its_rate_and_costs_others_nothing(gateway: RunningGateway) -> None:
    key = clients.add(gateway.root, "slow", rate=2)
    until(lambda: gateway.predict(auth=("slow", key)).status_code == 200, 2)
    with ThreadPoolExecutor(12) as pool:  # together, also on a slow machine
        answers = list(pool.map(lambda _: gateway.predict(auth=("slow", key)), range(12)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) >= 2 and {answer.status_code for answer in answers} <= {200, 429}
    assert refused[0].headers["retry-after"] == "1" and refused[0].json()["code"] == 429
    assert "the rate of this client" in refused[0].json()["message"]
    assert gateway.predict().status_code == 200
    until(lambda: gateway.predict(auth=("slow", key)).status_code == 200, 2)


def test_nobody_uses_up_the_rate_of_another(gateway: RunningGateway) -> None:
    key = clients.add(gateway.root, "other", rate=3)
    until(lambda: gateway.predict(auth=("other", key)).status_code == 200, 2)  # two are left of this second
    for _ in range(6):
        gateway.predict(headers={"x-sightline-client": "other"})
        gateway.session.get("/ping", headers={"x-sightline-client": "other"})
    assert gateway.predict(auth=("other", key)).status_code == 200


def test_no_client_chooses_a_path_by_a_header(gateway: RunningGateway) -> None:
    headers = {"x-sightline-path": "/models", "x-sightline-failed": f"127.0.0.1:{gateway.address.port} shapes 1.0"}
    answer = gateway.predict(headers=headers)
    assert answer.status_code == 200 and answer.headers["model-version"] == "1.0"
    log = gateway.folder / ACCESS_LOG
    until(lambda: answer.headers["x-request-id"] in log.read_text(), 3)  # Envoy writes it every second
    assert (gateway.folder / canary_log.FILE).read_text() == ""


def test_no_client_hides_its_requests_from_the_metrics(gateway: RunningGateway, server: RunningServer) -> None:
    folder = launch.observations(server.state.temporary)

    def counted() -> float:
        files = [Snapshot.read(path) for path in slot.files(folder, SUFFIX) if path.parts[-3] == "shapes"]
        return sum(
            sum(numbers) for each in files for metric, numbers in each if metric.name == "sightline_predictions_total"
        )

    before = counted()
    assert gateway.predict(headers={UNCOUNTED_HEADER: "1"}).status_code == 200
    until(lambda: counted() == before + 1, 2)


def test_readiness_is_that_of_the_models(
    gateway: RunningGateway, server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    paths = ("/ping", "/v2/models/shapes/ready", "/v2/models/digits/ready")
    assert [gateway.session.get(path).status_code for path in paths] == [200, 200, 200]
    assert gateway.session.get("/v2/models/absent/ready").status_code == 404  # without a key
    server.client.scale("digits", "2.0", 0)
    try:
        until(lambda: [gateway.session.get(path).status_code for path in paths] == [503, 200, 503], 5)
    finally:
        server.client.scale("digits", "2.0", 1)
    until(lambda: [gateway.session.get(path).status_code for path in paths] == [200, 200, 200], 30)
    assert [record.getMessage().partition(f"{server.root} ")[2][:12] for record in caplog.records] == [
        "is not ready",
        "is ready",
    ]


def test_a_renewed_token_costs_no_request(gateway: RunningGateway, server: RunningServer) -> None:
    tokens, codes = server.client.tokens, []
    for _ in range(5):
        token = tokens.current("inference", Deadline(5))
        tokens._renew("inference", tokens._read()["API"], Deadline(5))
        codes += [gateway.predict().status_code for _ in range(10)]
        assert tokens.current("inference", Deadline(5)) != token
    assert codes == [200] * 50


def test_the_log_has_client_and_trace_and_no_key(gateway: RunningGateway) -> None:
    trace, mine = "4bf92f3577b34da6a3ce929d0e0e4736", "4bf92f3577b34da6"
    headers = {"x-request-id": mine, "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    answer = gateway.predict("/predictions/shapes?secret=word", headers=headers)
    gateway.session.get("/ping", headers={"x-request-id": "stranger", "x-sightline-client": "ann"})
    log = gateway.folder / ACCESS_LOG

    def lines(request_id: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, log.read_text().splitlines()) if line["request_id"] == request_id]

    until(lambda: lines(mine) and lines("stranger"), 3)  # Envoy writes it every second
    (line,) = lines("stranger")
    assert line["client"] is None
    (line,) = lines(mine)
    assert line["client"] == "ann" and line["code"] == 200 and line["path"] == "/predictions/shapes"
    assert line["version"] == "1.0" and line["attempts"] == 1 and line["trace_id"] == trace
    text = log.read_text()
    assert gateway.key not in text and "word" not in text and authorization(gateway) not in text
    assert answer.headers["x-request-id"]


def test_more_requests_than_the_queue_holds_are_refused_at_once(server: RunningServer, tmp_path: Path) -> None:
    key, address = clients.add(tmp_path, "ann", rate=RATE), free_address()
    with Gateway(tmp_path, [server.root], address, queue=2) as running:
        context = ssl.create_default_context(cafile=str(running.folder / "tls.crt"))
        url = f"https://localhost:{address.port}/predictions/digits"  # it waits 100 ms to fill a batch

        def ask(_: int) -> tuple[int, str, float]:
            start = time.monotonic()
            answer = httpx.post(url, content=PHOTO, auth=("ann", key), verify=context, trust_env=False)
            return answer.status_code, answer.headers.get("retry-after", ""), time.monotonic() - start

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(ask, range(24)))
        assert {answer[:2] for answer in answers} == {(200, ""), (429, "1")}
        assert max(seconds for code, _, seconds in answers if code == 429) < 1.5  # opening a connection is most of it
        until(lambda: ask(0)[0] == 200, 2)


def test_mutated_requests_cost_no_process_and_get_no_5xx(
    gateway: RunningGateway, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "PATIENCE", 2.0)  # a request that is not whole is ended after 30 seconds
    url = f"https://localhost:{gateway.address.port}/predictions/shapes"
    request = fuzz.request_of(url, {"Authorization": authorization(gateway)}, PHOTO)
    context = ssl.create_default_context(cafile=str(gateway.root / "logs/gateway/tls.crt"))
    pids = server.pids("shapes")
    counted = asyncio.run(fuzz.endings(request, 200, gateway.address.port, context))
    assert counted.total() == 200 and counted["400"] > 50 and counted["200"] > 20
    assert not [ending for ending in counted if ending.startswith(("5", "unreachable"))]
    assert gateway.predict().status_code == 200 and server.pids("shapes") == pids


@pytest.mark.slow
def test_a_full_queue_of_the_server_is_429(gateway: RunningGateway, server: RunningServer) -> None:
    settings = ["minWorkers=1", "batchSize=1", "jobQueueSize=2", "handler.precision=fp32"]
    run, store = server.root / "runs" / "shapes", server.root / "model_store"
    built = archive.build("narrow", "1.0", run=run, store=store, overrides=settings, rehearse=False)
    with server.also_serving([faulty.spoil(built, faulty.SLOW)]), ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: gateway.predict("/predictions/narrow"), range(12)))
    full = [answer for answer in answers if answer.status_code == 429]
    assert full and full[0].headers["retry-after"] == "1"
    assert {answer.status_code for answer in answers} == {200, 429}


@pytest.mark.slow
def test_an_image_that_kills_its_worker_is_not_sent_again_and_again(
    gateway: RunningGateway, server: RunningServer
) -> None:
    settings = ["minWorkers=4", "handler.precision=fp32"]
    run, store = server.root / "runs" / "shapes", server.root / "model_store"
    built = archive.build("deadly", "1.0", run=run, store=store, overrides=settings, rehearse=False)
    with server.also_serving([faulty.spoil(built, faulty.KILLED)]):
        until(lambda: gateway.predict("/predictions/deadly").status_code == 200, 5)
        options = {"content": PHOTO + faulty.DEADLY, "headers": {"x-request-id": "deadly"}}
        assert gateway.predict("/predictions/deadly", **options).status_code in (503, 504)
        log = gateway.folder / ACCESS_LOG
        until(lambda: '"deadly"' in log.read_text(), 3)
        (line,) = [line for line in map(json.loads, log.read_text().splitlines()) if line["request_id"] == "deadly"]
        assert 1 < line["attempts"] <= 4  # three, and one beside a slow one
        until(lambda: gateway.predict("/predictions/deadly").status_code == 200, 20)
