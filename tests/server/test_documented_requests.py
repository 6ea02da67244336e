"""The requests of README.md and docs/, sent to a real server as a reader types them: curl and Python examples."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.conftest import ROOT, RunningServer, picture

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
KEY = "KEY=$(python3 -c \"import json; print(json.load(open('key_file.json'))['inference']['key'])\")"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


CURL = [
    (page.name, block)
    for page in PAGES
    for block in blocks(page, "bash")
    if "curl " in block
    and "torchserve --start" not in block  # test_plain_torchserve has those
    and page.name != "gateway.md"  # test_gateway has those
    and "gcloud " not in block  # asks a cloud; test_cloud sends the same requests
]
PYTHON = [(page.name, block) for page in PAGES for block in blocks(page, "python")]


@pytest.fixture
def folder(server: RunningServer) -> Path:
    """The server's folder, with the images that the pages name."""
    (server.root / "bird.jpg").write_bytes(picture(1))
    (server.root / "other.png").write_bytes(picture(2, image_format="PNG"))
    return server.root


def adapted(text: str, server: RunningServer) -> str:
    """Name a model and a port of this server in place of those of the pages."""
    address = server.state.inference.removeprefix("http://")
    return (
        text.replace("birds", "shapes").replace("127.0.0.1:8080", address).replace("/srv/sightline", str(server.root))
    )


@pytest.mark.parametrize(("page", "block"), CURL)
def test_curl_gets_its_answer(page: str, block: str, server: RunningServer, folder: Path) -> None:
    script = f'set -eo pipefail\ncurl() {{ command curl --fail -sS "$@"; echo; }}\n{KEY}\n{block}'
    done = subprocess.run(
        ["bash", "-c", adapted(script, server)], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "triangle" in done.stdout or "READY" in done.stdout, done.stdout


@pytest.mark.parametrize(("page", "block"), PYTHON)
def test_python_gets_its_answer(page: str, block: str, server: RunningServer, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", adapted(block, server)],
        cwd=folder if "root=" not in block else folder.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "triangle" in done.stdout or "shapes" in done.stdout


def test_there_are_requests() -> None:
    assert len(CURL) >= 5 and len(PYTHON) >= 3
