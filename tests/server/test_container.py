"""serving/container.py as a container starts it: in the foreground, open to its network, ended by SIGTERM."""

import datetime as dt
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from serving import state
from serving.client import Client
from tests.server.conftest import CLASSES, CONFIG, ROOT, free_offset, picture, run_cli


@pytest.fixture(scope="module")
def container(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A folder as the image has it, and the process that serves from it."""
    folder = tmp_path_factory.mktemp("container")
    (folder / "config.properties").write_text(CONFIG.read_text())
    (folder / "model_store").symlink_to(root / "model_store")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SIGHTLINE_PORT_OFFSET": str(free_offset(12000))}
    command = [sys.executable, "-m", "serving.container", "shapes"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield folder, process
        finally:
            process.terminate()


def test_a_container_from_start_to_end(container: tuple[Path, "subprocess.Popen[str]"]) -> None:
    folder, process = container
    assert process.stdout is not None
    assert process.stdout.readline().endswith("shapes 1.0\n")  # says so once every worker is READY
    running = state.running(folder)
    assert running is not None
    assert run_cli("serving.container", "--healthy", root=folder).returncode == 0

    with Client(root=folder) as client:
        assert set(client.predict(picture(), "shapes").probabilities) == set(CLASSES["shapes"])
    refused = httpx.post(f"{running.inference}/predictions/shapes", content=picture(), trust_env=False)
    assert refused.status_code == 400, "a request without a token must not be answered"

    keys = json.loads((folder / "key_file.json").read_text())
    ends = dt.datetime.fromisoformat(keys["inference"]["expiration time"][:19] + "+00:00")
    assert ends - dt.datetime.now(dt.UTC) > dt.timedelta(days=300), "a token must outlast a server that runs for long"

    connections = [each for each in psutil.net_connections("tcp") if each.pid == running.pid and each.laddr]
    listening = {each.laddr.port: each.laddr.ip for each in connections if each.laddr and each.status == "LISTEN"}
    opened = [port for port, host in listening.items() if "127.0.0.1" not in host]
    assert opened == [httpx.URL(running.inference).port]

    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert running.process() is None
    assert run_cli("serving.container", "--healthy", root=folder).returncode == 1


def test_an_empty_model_store_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.properties").write_text(CONFIG.read_text())
    (tmp_path / "model_store").mkdir()
    done = run_cli("serving.container", root=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no archive in ")
    assert len(done.stderr.splitlines()) == 1
