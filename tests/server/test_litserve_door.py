"""The other front door, started for real: it answers what the classifier answers in process."""

import base64
import contextlib
import dataclasses
import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from handlers import golden
from handlers.classifier import Classifier
from serving import archive
from serving.store import provenance
from tests.server.bombs import webp_of_one_colour
from tests.server.conftest import CLASSES, MAX_BYTES, ROOT, export, picture, run_cli
from tests.until import until

JPEG2000 = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 50
TOP_K = 2
RESPONSE_TIMEOUT = 47  # seconds: not LitServe's own


@dataclasses.dataclass(frozen=True)
class Running:
    """A started door and the run that it serves."""

    process: subprocess.Popen[str]
    url: str
    run: Path

    def send(self, path: str = "/predictions/shapes", **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=30, trust_env=False, **options)


def start(root: Path) -> tuple[subprocess.Popen[str], int]:
    """Start the door as a person would in a terminal of its own; return the process and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "serving.litserve_server", "shapes", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return process, port


def await_ready(process: subprocess.Popen[str]) -> str:
    """Return the address that it says it is ready at."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready at http://127.0.0.1:"), line + process.stdout.read()
    return line.split()[-1]


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> str:
    """End the door by SIGTERM, or as Ctrl-C does, and see that nothing of it is left; return what it said."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    if number == signal.SIGINT:  # which a terminal sends to all of a group
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    try:
        said, _ = process.communicate(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive
    finally:
        if process.poll() is None:  # also what it has started since
            family += psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    return said


def build(root: Path) -> Path:
    """Build an archive whose batches wait for company; return its run."""
    run = export(root / "runs" / "shapes", CLASSES["shapes"]).parent
    settings = [
        f"handler.max_bytes={MAX_BYTES}",
        "maxBatchDelay=200",
        f"handler.top_k={TOP_K}",
        "minWorkers=1",
        "handler.precision=fp32",
        f"responseTimeout={RESPONSE_TIMEOUT}",
    ]
    archive.build("shapes", "1.0", runs=root / "runs", store=root / "model_store", overrides=settings, rehearse=False)
    return run


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("door")
    run = build(root)
    process, port = start(root)
    try:
        url = await_ready(process)
        assert url == f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        yield Running(process, url, run)
    finally:
        said = end(process)
    assert (process.returncode, said) == (0, "")
    assert not list(root.glob("client.py"))


@pytest.fixture(scope="module")
def expected(door: Running) -> Any:
    classifier = Classifier(door.run / "model.pt", top_k=TOP_K)

    def answer(image: bytes) -> Any:
        (found,) = classifier.classify([image])
        assert isinstance(found, dict)
        return pytest.approx(found, abs=1e-5)

    return answer


def kserve(*images: bytes) -> bytes:
    return json.dumps({"instances": [{"b64": base64.b64encode(image).decode()} for image in images]}).encode()


def test_expensive_requests_are_refused_or_put_off_as_by_torchserve(door: Running, expected: Any) -> None:
    refused = door.send(content=kserve(*[webp_of_one_colour(8192, 6144)] * 16))
    assert (refused.status_code, refused.json()["type"]) == (413, "TooLarge")
    bodies = [*[webp_of_one_colour(6500, 6500)] * 4, picture(1)]
    with ThreadPoolExecutor(len(bodies)) as pool:
        *expensive, good = pool.map(lambda body: door.send(content=body), bodies)
    assert good.json() == expected(picture(1))
    put_off = [response for response in expensive if response.status_code != 200]
    assert 1 <= len(put_off) <= 3, "they come in one batch, or in two"
    for response in put_off:
        assert (response.status_code, response.json()["type"]) == (503, "Busy")
        assert int(response.headers["retry-after"]) >= 1 and response.headers["model-version"] == "1.0"


def test_the_file_has_at_most_sixty_lines() -> None:
    assert len((ROOT / "serving" / "litserve_server.py").read_text().splitlines()) <= 60


def test_an_image_is_answered_whatever_its_type(door: Running, expected: Any) -> None:
    for kind in ("image/jpeg", "application/json", "text/plain", "multipart/form-data", "nonsense", ""):
        response = door.send(content=picture(1), headers={"Content-Type": kind})
        assert (response.status_code, response.json()) == (200, expected(picture(1))), kind
        assert response.headers["content-type"] == "application/json" and response.headers["model-version"] == "1.0"
        assert response.headers.get("model-commit") == provenance.commit()
        assert list(response.json().values()) == sorted(response.json().values(), reverse=True)


def test_curl_sends_files(door: Running, expected: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    for form in (["-T", "a.jpg"], ["-F", "image=@a.jpg"], ["--data-binary", "@a.jpg", "-H", "Content-Type:"]):
        command = ["curl", "-sS", "--noproxy", "*", *form, f"{door.url}/predictions/shapes"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=60)
        assert json.loads(done.stdout) == expected(picture(1)), form


def test_several_images_come_back_in_order(door: Running, expected: Any) -> None:
    images = [picture(seed) for seed in range(3)]
    wanted = {"predictions": [expected(image) for image in images]}
    form = {f"file{index}": image for index, image in enumerate(images)}
    for path in ("/predictions/shapes", "/v1/models/shapes:predict"):
        assert door.send(path, content=kserve(*images), headers={"Content-Type": "application/json"}).json() == wanted
        assert door.send(path, files=form).json() == wanted
    urlencoded = {"Content-Type": "application/x-www-form-urlencoded"}
    assert door.send(content=kserve(*images), headers=urlencoded).json() == wanted


@pytest.mark.parametrize("names", ["ff", "ffg", "fgf"])
def test_files_of_one_name_are_an_entry_each(door: Running, expected: Any, names: str) -> None:
    images = [picture(seed) for seed in range(len(names))]
    form = [(name, ("a.jpg", image)) for name, image in zip(names, images, strict=True)]
    assert door.send(files=form).json() == {"predictions": [expected(image) for image in images]}


def test_text_of_a_form_is_no_image(door: Running, expected: Any) -> None:
    form = {"note": (None, "größe"), "photo": ("a.jpg", picture(1))}
    assert door.send(files=form).json() == expected(picture(1))
    fields = {f"photo{seed}": (None, picture(seed)) for seed in range(2)}  # images without a file's name
    assert door.send(files=fields).json() == {"predictions": [expected(picture(0)), expected(picture(1))]}


def test_fewer_labels_are_answered_where_fewer_are_asked_for(door: Running, expected: Any) -> None:
    best = dict(list(expected(picture(1)).expected.items())[:1])
    for options in ({"params": {"top_k": 1}}, {"headers": {"top-k": "1"}}):
        assert door.send(content=picture(1), **options).json() == pytest.approx(best, abs=1e-5)
    assert door.send(content=picture(1), params={"top_k": 99}).json() == expected(picture(1))
    assert door.send(content=picture(1), params={"top_k": 0}).status_code == 400


def test_a_packed_body_is_unpacked(door: Running, expected: Any) -> None:
    packed = {"Content-Encoding": "gzip"}
    assert door.send(content=gzip.compress(picture(1)), headers=packed).json() == expected(picture(1))
    bomb = door.send(content=gzip.compress(bytes(2**24)), headers=packed)
    assert (bomb.status_code, bomb.json()["type"]) == (413, "TooLarge")
    form = door.send(files={"a": gzip.compress(picture(1))}, headers=packed)
    assert form.status_code == 415 and "Content-Encoding" in form.json()["message"]


def test_a_form_that_is_broken_is_called_so(door: Running) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + picture(1) + b"\r\n"
    for body in (b"", part[:-9], b"--y" + part[3:], b"--x\r\n", part + part[:-9] + bytes(2000), picture(1)):
        response = door.send(content=body, headers=form)
        assert response.status_code == 400, body[:20]
        assert response.headers["content-type"] == "application/json" and response.json()["message"]


def test_the_addresses_of_torchserve_are_answered(door: Running, expected: Any) -> None:
    assert door.send("/predictions/shapes/1.0", content=picture(1)).json() == expected(picture(1))
    assert door.send("/predictions/shapes/2.0", content=picture(1)).status_code == 404
    for path in ("/explanations/shapes", "/explanations/shapes/1.0", "/v1/models/shapes:explain"):
        explanation = door.send(path, content=picture(1), params={"label": "square"}).json()
        assert (explanation["label"], explanation["method"], explanation["size"]) == ("square", "occlusion", 32), path
    png = door.send("/explanations/shapes", content=picture(1), headers={"Accept": "image/png"})
    assert png.headers["content-type"] == "image/png" and png.content.startswith(b"\x89PNG")

    def get(path: str) -> Any:
        return httpx.get(door.url + path, trust_env=False).raise_for_status().json()

    assert get("/ping") == {"status": "Healthy"}
    assert get("/v1/models/shapes") == {"name": "shapes", "ready": True}
    assert get("/info")["server"]["timeout"] == RESPONSE_TIMEOUT


def test_errors_say_what_is_wrong(door: Running) -> None:
    urlencoded = {"Content-Type": "application/x-www-form-urlencoded"}
    for code, kind, options in (
        (400, "BadImage", {"content": b"no image"}),
        (400, "BadRequest", {"content": b""}),
        (400, "BadRequest", {"content": b'{"instances": ['}),
        (400, "BadRequest", {"content": picture(1), "headers": urlencoded}),
        (413, "TooLarge", {"content": bytes(MAX_BYTES + 1)}),
        (413, "Refused", {"content": bytes(26_214_401)}),
        (415, "UnsupportedFormat", {"content": JPEG2000}),
        (415, "UnsupportedFormat", {"content": kserve(JPEG2000, b"x")}),
        (404, "Refused", {"path": "/predictions/digits", "content": b""}),
    ):
        response = door.send(**options)
        document = response.json()
        assert (response.status_code, document["code"], document["type"]) == (code, code, kind), options.keys()
        assert set(document) == {"code", "type", "message"} and document["message"]
        assert response.headers["content-type"] == "application/json"


def test_a_bad_image_costs_its_neighbours_nothing(door: Running, expected: Any) -> None:
    images = [picture(1), b"no image", picture(2), JPEG2000, bytes(MAX_BYTES + 1), picture(3), kserve(picture(4), b"x")]
    together = threading.Barrier(len(images))

    def send(image: bytes) -> httpx.Response:
        together.wait(timeout=30)
        return door.send(content=image)

    with ThreadPoolExecutor(len(images)) as pool:
        replies = list(pool.map(send, images))
    assert [reply.status_code for reply in replies] == [200, 400, 200, 415, 413, 200, 200]
    for index in (0, 2, 5):
        assert replies[index].json() == expected(images[index])
    good, bad = replies[-1].json()["predictions"]
    assert good == expected(picture(4)) and bad["error"]["type"] == "BadImage"


def test_it_describes_itself(door: Running) -> None:
    described = door.send(content=b"", headers={"describe": "True"}).json()
    assert described["classes"] == list(CLASSES["shapes"])
    assert (described["version"], described["top_k"], described["precision"]) == ("1.0", TOP_K, "fp32")
    assert set(described) == {"classes", "preprocess", "version", "top_k", "precision"}


def test_it_listens_on_the_loopback_alone(door: Running) -> None:
    pids = {door.process.pid, *(child.pid for child in psutil.Process(door.process.pid).children(recursive=True))}
    connections = [each for each in psutil.net_connections("inet") if each.pid in pids]
    assert any(each.status == psutil.CONN_LISTEN for each in connections)
    assert {address.ip for each in connections for address in (each.laddr, each.raddr) if address} == {"127.0.0.1"}


@pytest.mark.slow
def test_a_wrong_golden_answer_stops_it(tmp_path: Path) -> None:
    run = export(tmp_path / "runs" / "shapes", CLASSES["shapes"]).parent
    document = json.loads((run / golden.FILE).read_text())
    document[0]["probabilities"] = [0.2, 0.3, 0.5]
    (run / golden.FILE).write_text(json.dumps(document))
    archive.build("shapes", "1.0", runs=tmp_path / "runs", store=tmp_path / "model_store", rehearse=False)
    process, _ = start(tmp_path)
    try:
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "golden image 7.jpg is answered otherwise" in said, said
    assert any(line.startswith("error: ") for line in said.splitlines()), said


def test_an_unknown_model_is_one_line(tmp_path: Path) -> None:
    process, _ = start(tmp_path)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and said.startswith("error: no archive of shapes")


def test_an_interrupt_ends_it_without_a_word(door: Running) -> None:
    process, _ = start(door.run.parents[1])
    url = await_ready(process)
    with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"))) as asked:
        asked.request("POST", "/predictions/shapes", body=picture(1))
        until(lambda: is_asked(process.pid), 30)  # it waits 200 ms for company, and is answered before the door ends
        assert (end(process, signal.SIGINT), process.returncode) == ("", 0)
        assert asked.getresponse().status == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_ended_before_it_is_ready(door: Running, number: signal.Signals) -> None:
    process, _ = start(door.run.parents[1])
    until(lambda: has_worker(process.pid) or process.poll() is not None, 60)  # which then loads for seconds
    assert (end(process, number), process.returncode) == ("", 0)


def is_asked(pid: int) -> bool:
    pids = {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    return any(each.pid in pids and each.status == psutil.CONN_ESTABLISHED for each in psutil.net_connections("inet"))


def has_worker(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any("spawn_main" in " ".join(e.cmdline()) for e in psutil.Process(pid).children(recursive=True))
    return False


def test_a_taken_port_is_one_line(door: Running, tmp_path: Path) -> None:
    port = door.url.rpartition(":")[2]
    done = run_cli("serving.litserve_server", "shapes", "--port", port, root=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: port {port} is taken: stop what listens there, or choose another with --port\n"
