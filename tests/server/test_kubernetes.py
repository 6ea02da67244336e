"""The containers of deploy/kubernetes as processes: their words, variables, folders and probes, on a read-only root."""

import asyncio
import base64
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

from serving.bucket import BUCKET, MODELS, put
from serving.gateway import clients
from serving.host import state
from tests.server.conftest import CLASSES, ROOT, free_offset, picture
from tests.server.gateways import free_address
from tests.unit import manifests
from tests.until import until

# The test's folder may be written to, all else may not: the root, and where this project and its packages are.
READ_ONLY = """
set -e
mount --bind "$1" "$1"
for path in / "$2" "$3"; do
    mount -o remount,bind,ro "$(findmnt -n -o TARGET -T "$path")"
    if touch "$path/written" 2>/dev/null; then echo "$path can be written" >&2; exit 1; fi
done
shift 3
exec "$@"
"""


def in_container(
    folder: Path, container: Mapping[str, Any], words: list[str], **variables: str
) -> "subprocess.Popen[str]":
    """Start a container's command as a process: its folders are those of the same names below `folder`."""
    at = {mount["mountPath"]: folder / mount["name"] for mount in container["volumeMounts"]}
    for path in at.values():
        path.mkdir(exist_ok=True)

    def moved(word: str) -> str:
        return str(at.get(word, word))

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": moved("/tmp")}
    environment |= {entry["name"]: moved(entry["value"]) for entry in container.get("env", [])} | variables
    protect = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(folder), str(ROOT), sys.prefix]
    command = [*protect, sys.executable, *map(moved, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=moved(container["workingDir"]), env=environment, **pipes)  # type: ignore[call-overload,no-any-return]


@contextlib.contextmanager
def served(
    folder: Path, container: Mapping[str, Any], **variables: str
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run a container of a server until the block ends; yield its address, once its readiness probe succeeds."""
    port = str(free_address().port)
    named = next(entry["containerPort"] for entry in container["ports"] if entry.get("name", "http") == "http")
    words = [port if word == str(named) else word.replace("{{.Name}}", "shapes") for word in container["args"]]
    variables |= {"SIGHTLINE_PORT_OFFSET": str(free_offset(13000))}
    url = f"http://127.0.0.1:{port}"
    with in_container(folder, container, ["-m", "serving.container", *words], **variables) as process:
        try:
            until(lambda: process.poll() is not None or probe(container["startupProbe"], url), 60)
            assert process.poll() is None, process.communicate()
            yield url, process
        finally:
            process.terminate()


def probe(configured: Mapping[str, Any], url: str) -> bool:
    """Return whether a probe of the manifest succeeds, as Kubernetes decides it."""
    with contextlib.suppress(httpx.HTTPError):
        answer = httpx.get(f"{url}{configured['httpGet']['path']}", timeout=configured.get("timeoutSeconds", 1))
        return 200 <= answer.status_code < 400
    return False


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder whose path is short: that of the socket in it may have about 100 characters."""
    with tempfile.TemporaryDirectory(prefix="pod-") as path:
        yield Path(path)


@pytest.fixture
def bucket(root: Path, folder: Path) -> str:
    """Return the address of a bucket with the archive of `shapes`."""
    put(f"file://{folder}/bucket", [("shapes", "1.0")], root)
    return f"file://{folder}/bucket"


def test_the_pods_of_a_deployment(bucket: str, folder: Path) -> None:
    pod = manifests.one("Deployment", "overlays/bucket")["spec"]["template"]["spec"]
    (first,), (server,) = pod["initContainers"], pod["containers"]
    variables = {BUCKET: bucket, MODELS: "shapes=1.0"}
    with in_container(folder, first, first["command"][1:], **variables) as process:
        assert process.wait(timeout=30) == 0, process.communicate()
    (folder / "clients").mkdir()
    key = clients.add(folder / "clients", "ann")
    with served(folder, server, **variables) as (url, process):
        path = f"{url}/predictions/shapes"
        assert httpx.post(path, content=picture()).status_code == 401
        assert set(httpx.post(path, content=picture(), auth=("ann", key)).json()) == set(CLASSES["shapes"])
        see_only_two_ports_open(process, folder / "work", url)
        see_the_probes_follow_the_worker(process, server, url)
        process.terminate()
        assert process.wait(timeout=60) == 0
    assert not probe(server["livenessProbe"], url)


def see_only_two_ports_open(process: "subprocess.Popen[str]", work: Path, url: str) -> None:
    running = state.running(work)
    assert running is not None
    tree = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    sockets = [each for each in psutil.net_connections("tcp") if each.pid in tree and each.status == "LISTEN"]
    loopback = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    opened = {each.laddr.port for each in sockets if each.laddr and each.laddr.ip not in loopback}
    metrics = httpx.URL(running.metrics).port
    assert metrics is not None and opened == {httpx.URL(url).port, metrics + 1}
    (trigger, _) = manifests.one("ScaledObject", "overlays/bucket")["spec"]["triggers"]
    series = trigger["metadata"]["query"].partition("{")[0].rpartition("(")[2]
    assert f'{series}{{model="shapes",version="1.0"}} 0.0' in httpx.get(f"http://127.0.0.1:{metrics + 1}/metrics").text


def see_the_probes_follow_the_worker(process: "subprocess.Popen[str]", server: Mapping[str, Any], url: str) -> None:
    ready = server["readinessProbe"]
    tree = psutil.Process(process.pid).children(recursive=True)
    (worker,) = (child for child in tree if any("model_service_worker" in word for word in child.cmdline()))
    worker.kill()
    until(lambda: not probe(ready, url), 10)
    until(lambda: probe(ready, url), 30)


def test_the_runtime_of_kserve_answers_its_client(root: Path, folder: Path) -> None:
    (container,) = manifests.one("ServingRuntime", "kserve/runtime")["spec"]["containers"]
    image = picture(1)
    document = {"instances": [{"b64": base64.b64encode(image).decode()}]}

    tensor = InferInput("image", [1], "BYTES", [document["instances"][0]["b64"]])

    async def ask(url: str, protocol: str, sent: Any) -> Any:
        async with InferenceRESTClient(RESTConfig(protocol=protocol)) as client:
            return await client.infer(url, sent, model_name="shapes")

    with served(folder, container, SIGHTLINE_STORE=str(root / "model_store")) as (url, _):
        (prediction,) = asyncio.run(ask(url, "v1", document))["predictions"]
        label, probability = asyncio.run(ask(url, "v2", InferRequest("shapes", [tensor]))).outputs
    assert set(prediction) == set(CLASSES["shapes"])
    assert dict(zip(label.data, probability.data, strict=True)) == prediction
