"""The container's entry point as Vertex AI and Cloud Run start it: their variables, checks, requests and end."""

import base64
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from serving.store import signature
from tests.server import buckets
from tests.server.conftest import CLASSES, CONFIG, ROOT, free_offset, picture
from tests.until import until

VERTEX_LIMIT = 1_500_000  # bytes of a request through a shared public endpoint
CLOUD_RUN_END_S = 10.0  # from SIGTERM to SIGKILL


def image_folder(folder: Path) -> Path:
    """Make the folder of the image: code, settings, an empty model store, and nothing else."""
    folder.mkdir()
    for name in ("handlers", "serving", "monitoring"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "config.properties").write_text(CONFIG.read_text())
    (folder / "model_store").mkdir()
    return folder


class Running:
    """A container that a platform has started, reached only by its port."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, health: str) -> None:
        self.process, self.port, self.health_route = process, port, health
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20)

    def health(self) -> int:
        """Return the status of a health check, 0 if nothing listens."""
        assert self.process.poll() is None, self.process.communicate()[0]
        with contextlib.suppress(httpx.TransportError):
            return self.client.get(self.health_route).status_code
        return 0

    def stop(self) -> float:
        """End it as a platform does; return the seconds that took."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0
        return time.monotonic() - start


@contextlib.contextmanager
def container(folder: Path, port: int, health: str, variables: dict[str, str], *before: str) -> Iterator[Running]:
    command = [*before, sys.executable, "-m", "serving.container"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**buckets.without_cloud(), **variables}
    with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as process:  # type: ignore[call-overload]
        running = Running(process, port, health)
        try:
            yield running
        finally:
            running.client.close()
            process.terminate()


class Callers:
    """Threads that send images one after the other, each on its connection, until the platform sends no more."""

    def __init__(self, port: int, path: str, count: int = 6) -> None:
        self.statuses: list[int | str] = []
        self._url, self._body, self._ending = f"http://127.0.0.1:{port}{path}", picture(), threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        with httpx.Client(trust_env=False, timeout=60) as client:
            while not self._ending.is_set():
                try:
                    self.statuses.append(client.post(self._url, content=self._body).status_code)
                except httpx.HTTPError as error:
                    self.statuses.append(repr(error))

    def end(self) -> None:
        """Send no more, and wait for the answers."""
        self._ending.set()
        for thread in self._threads:
            thread.join()


def lossless_stop(running: Running, callers: Callers) -> float:
    """Stop a container under load, whose platform goes on sending for a moment; return the seconds that took."""
    until(lambda: len(callers.statuses) > 50, 20)
    before = len(callers.statuses)
    threading.Timer(0.5, callers.end).start()
    seconds = running.stop()
    callers.end()
    assert len(callers.statuses) > before + 5, "requests came after SIGTERM"
    assert set(callers.statuses) == {200}
    return seconds


def test_vertex_ai_starts_asks_and_ends_a_container(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder(tmp_path / "image")
    port = 8080 + free_offset(14000)
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    for path in (root / "model_store").glob("shapes-1.0.*"):
        (artifacts / path.name).write_bytes(path.read_bytes())
    with buckets.emulated(port + 9) as bucket:
        uri = buckets.put(buckets.reach(bucket, monkeypatch), artifacts, "managed/model")
        routes = "/v1/endpoints/7/deployedModels/8"  # Vertex AI's, if the model's upload names none
        variables = {
            **bucket,
            "AIP_MODE": "PREDICTION",
            "AIP_HTTP_PORT": str(port),
            "AIP_HEALTH_ROUTE": routes,
            "AIP_PREDICT_ROUTE": f"{routes}:predict",
            "AIP_STORAGE_URI": uri,
        }
        with container(folder, port, routes, variables) as running:
            until(lambda: running.health() == 503, 20)
            until(lambda: running.health() == 200, 60)
            see_vertex_requests(running, f"{routes}:predict")
            see_closed_paths(running)
            see_health_follow_the_workers(running)
            lossless_stop(running, Callers(port, f"{routes}:predict"))


def see_vertex_requests(running: Running, route: str) -> None:
    encoded = [base64.b64encode(picture(seed)).decode() for seed in range(2)]
    body = {"instances": [{"b64": text} for text in encoded], "parameters": {"confidenceThreshold": 0.5}}
    answer = running.client.post(route, json=body)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    predictions = answer.json()["predictions"]
    assert [set(prediction) for prediction in predictions] == [set(CLASSES["shapes"])] * 2
    raw = running.client.post(route, content=picture(0))  # a raw prediction
    assert raw.json() == pytest.approx(predictions[0])
    assert running.client.post(route, json={"instances": [{"b64": "no"}]}).json()["code"] == 400

    padding = VERTEX_LIMIT - len(json.dumps(body)) - len('"padding": "", ')
    largest = running.client.post(route, content=json.dumps({"padding": "x" * padding, **body}))
    assert largest.status_code == 200 and len(largest.request.content) == VERTEX_LIMIT
    assert largest.json()["predictions"][1] == pytest.approx(predictions[1])
    limit = 26_214_400
    assert f"max_request_size={limit}" in CONFIG.read_text()
    for content in (
        b"x" * (limit + 1),
        iter([b"x" * limit, b"x"]),
    ):  # of a length that is known, and of one that is not
        refused = running.client.post(route, content=content)
        assert refused.status_code == 413 and str(limit) in refused.json()["message"]


def see_closed_paths(running: Running) -> None:
    closed = (
        "/",
        "/models",
        "/token?type=inference",
        "/predictions/../models",
        "/predictions/%2e%2e/models",
        "/metrics",
    )
    for path in (*closed, "/v1/endpoints/7/deployedModels/8/x", "/v2/models/shapes"):
        request = httpx.Request("POST", running.client.base_url)
        request.extensions["target"] = path.encode()
        assert running.client.send(request).status_code == 404, path
    assert running.client.get("/predictions/shapes").status_code == 405
    connections = [each for each in psutil.net_connections("tcp") if each.status == "LISTEN" and each.laddr]
    tree = {child.pid for child in psutil.Process(running.process.pid).children(recursive=True)}
    inside = [each.laddr.ip for each in connections if each.pid in tree and each.laddr]
    assert inside and all("127.0.0.1" in ip for ip in inside), "only the front is open to the network"


def see_health_follow_the_workers(running: Running) -> None:
    tree = psutil.Process(running.process.pid).children(recursive=True)
    (worker,) = (each for each in tree if any(word.endswith("model_service_worker.py") for word in each.cmdline()))
    callers = Callers(running.port, "/predictions/shapes")
    until(lambda: len(callers.statuses) > 20, 20)
    worker.kill()
    until(lambda: running.health() == 503, 5)
    until(lambda: running.health() == 200, 20)
    callers.end()
    assert set(callers.statuses) == {200}, "those of the dead worker were sent again"


def test_an_unsigned_archive_of_the_bucket_is_refused(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="install requirements-signing.txt")
    folder = image_folder(tmp_path / "image")
    signature.create_key(tmp_path / "private.pem", folder)
    place = f"file://{root / 'model_store'}"
    variables = {"AIP_HTTP_PORT": str(8080 + free_offset(16000)), "AIP_STORAGE_URI": place}
    command = [sys.executable, "-m", "serving.container", "shapes"]
    environment = {**buckets.without_cloud(), **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith("error: shapes-1.0.mar is not signed: sign it")


def read_only(folder: Path) -> list[str]:
    """Return the words that start a command where a folder cannot be written."""
    script = f'mount --bind "{folder}" "{folder}" && mount -o remount,bind,ro "{folder}" && cd "{folder}" && exec "$@"'
    return ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh"]


def test_cloud_run_starts_and_ends_a_container_with_a_read_only_file_system(root: Path, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "image")
    for path in (root / "model_store").glob("shapes-1.0.*"):
        (folder / "model_store" / path.name).write_bytes(path.read_bytes())
    port = 8080 + free_offset(15000)
    variables = {"PORT": str(port), "K_SERVICE": "birds", "K_REVISION": "birds.1", "SIGHTLINE_PLATFORM": "cloud-run"}
    with container(folder, port, "/ping", variables, *read_only(folder)) as running:
        until(lambda: running.health() == 200, 60)
        assert set(running.client.post("/predictions/shapes", content=picture()).json()) == set(CLASSES["shapes"])
        token = {"Authorization": "Bearer of the platform"}
        encoded = base64.b64encode(picture()).decode()
        document = {"instances": [{"b64": encoded}]}
        answer = running.client.post("/v1/models/shapes:predict", json=document, headers=token)
        assert len(answer.json()["predictions"]) == 1
        assert lossless_stop(running, Callers(port, "/predictions/shapes")) < CLOUD_RUN_END_S
