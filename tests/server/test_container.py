"""serving/container.py as a container starts it: in the foreground, open to its network, ended with its server."""

import contextlib
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

from serving.client import Client
from serving.host import ports, state
from tests.server.conftest import CLASSES, CONFIG, ROOT, another_server, free_offset, picture, run_cli
from tests.until import until

# A process namespace of its own, where the command is process 1.
UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
UNPRIVILEGED = [*UNSHARE, "--user", "--map-root-user"]


@contextlib.contextmanager
def started(root: Path, folder: Path, *before: str) -> Iterator["subprocess.Popen[str]"]:
    """Serve `shapes` from a folder as the image has it, the command behind the words of `before`."""
    (folder / "config.properties").write_text(CONFIG.read_text())
    (folder / "model_store").symlink_to(root / "model_store")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SIGHTLINE_PORT_OFFSET": str(free_offset(12000))}
    command = [*before, sys.executable, "-m", "serving.container", "shapes"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline().endswith("shapes 1.0\n")  # says so once every worker is READY
            yield process
        finally:
            process.terminate()


def test_a_container_from_start_to_end(root: Path, tmp_path: Path) -> None:
    with started(root, tmp_path) as process:
        see_it_serve(tmp_path)
        known = state.running(tmp_path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert known is not None and known.process() is None
    assert run_cli("serving.container", "--healthy", root=tmp_path).returncode == 1


def see_it_serve(folder: Path) -> None:
    running = state.running(folder)
    assert running is not None
    metrics = f"http://127.0.0.1:{ports.exporter_port(running.metrics)}/metrics"
    until(lambda: answers(metrics), 60)
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


def answers(address: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return "sightline_up 1.0" in httpx.get(address, timeout=10, trust_env=False).text
    return False


def first_process() -> list[str]:
    """Return the words that make a command process 1, none where this user may not do that."""
    for each in (UNSHARE, UNPRIVILEGED):
        if subprocess.run([*each, "true"], capture_output=True, check=False).returncode == 0:
            return each
    return []


def test_a_container_whose_server_dies_ends(root: Path, tmp_path: Path) -> None:
    with started(root, tmp_path, *first_process()) as process:
        tree = psutil.Process(process.pid).children(recursive=True)
        (front,) = (each for each in tree if state.FRONT_END in each.cmdline())
        assert front.children(), "a worker is left behind"
        front.kill()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors == "error: TorchServe has ended (killed by SIGKILL): start the container again\n"
    assert not psutil.wait_procs(tree, timeout=10)[1], "every process of the container ends"


def test_a_server_that_runs_there_already_is_left_alone(root: Path, tmp_path: Path) -> None:
    (tmp_path / "config.properties").write_text(CONFIG.read_text())
    (tmp_path / "model_store").symlink_to(root / "model_store")
    with another_server(tmp_path):
        done = run_cli("serving.container", "shapes", root=tmp_path)
        assert done.returncode == 1 and done.stderr.startswith("error: a server runs here already")


def test_an_empty_model_store_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.properties").write_text(CONFIG.read_text())
    (tmp_path / "model_store").mkdir()
    done = run_cli("serving.container", root=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no archive in ")
    assert len(done.stderr.splitlines()) == 1
