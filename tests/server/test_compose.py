"""The server of deploy/compose as a process: its words, variables and folders, on a read-only root."""

import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import yaml

from serving.gateway import clients
from tests.server.conftest import CLASSES, ROOT, free_offset, picture
from tests.server.gateways import free_address
from tests.server.test_kubernetes import folder, in_container  # noqa: F401 (a fixture)
from tests.until import until

FOLDERS = {"/tmp": "temporary", "/var/lib/sightline": "work", "/models": "models"}


def container_of(service: dict[str, Any]) -> dict[str, Any]:
    """Return a service in the words of a Kubernetes container."""
    volumes, temporary = service["volumes"], service["tmpfs"]
    mounted = {*(volume["target"] for volume in volumes), *(entry.partition(":")[0] for entry in temporary)}
    assert mounted == set(FOLDERS)
    assert "exec" in temporary[0].partition(":")[2].split(",")  # Docker's default is noexec
    return {
        "workingDir": service["working_dir"],
        "env": [{"name": name, "value": value} for name, value in service["environment"].items() if "$" not in value],
        "volumeMounts": [{"name": name, "mountPath": path} for path, name in FOLDERS.items()],
    }


def test_the_server_answers_through_its_gateway(root: Path, folder: Path) -> None:  # noqa: F811
    service = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text())["services"]["server"]
    (folder / "models").mkdir()
    for name in ("shapes-1.0.mar", "shapes-1.0.json"):
        (folder / "models" / name).hardlink_to((root / "model_store" / name).resolve())
    (folder / "work").mkdir()
    key = clients.add(folder / "work", "ann")
    port = str(free_address().port)
    words = [port if word == "8443" else word for word in service["command"]]
    variables = {"SIGHTLINE_PORT_OFFSET": str(free_offset(13500))}
    with in_container(folder, container_of(service), ["-m", "serving.container", *words], **variables) as process:
        try:
            check = [sys.executable, *service["healthcheck"]["test"][2:]]
            work = folder / "work"
            until(lambda: process.poll() is not None or (work / "logs/gateway/tls.crt").is_file(), 60)
            assert process.poll() is None, process.communicate()
            until(lambda: subprocess.run(check, cwd=work, env={"PYTHONPATH": str(ROOT)}).returncode == 0, 60)
            context = ssl.create_default_context(cafile=work / "logs" / "gateway" / "tls.crt")
            url = f"https://localhost:{port}/predictions/shapes"
            until(lambda: httpx.post(url, content=picture(), auth=("ann", key), verify=context).status_code == 200, 30)
            answer = httpx.post(url, content=picture(), auth=("ann", key), verify=context)
            assert set(answer.json()) == set(CLASSES["shapes"])
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0, process.communicate()
