"""The gateway's process and files: how it starts, goes on after faults, and ends."""

import base64
import contextlib
import errno
import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from serving.gateway import __main__ as command_line
from serving.gateway import certificate, clients
from serving.gateway import envoy as envoy_module
from serving.gateway.certificate import CERTIFICATE
from serving.gateway.clients import FILE
from serving.gateway.deployed import RUNNING
from serving.gateway.envoy import ACCESS_LOG, GatewayError
from serving.gateway.gateway import Gateway
from serving.host.ports import PortError
from tests.server import gateways
from tests.server.conftest import ROOT, RunningServer
from tests.server.gateways import PHOTO, RATE, RunningGateway, free_address
from tests.until import until


@pytest.fixture(scope="module")
def gateway(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with gateways.running(tmp_path_factory.mktemp("gateway"), [server.root]) as running:
        yield running


def test_a_large_log_is_put_aside(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    log = gateway.folder / ACCESS_LOG
    gateway.predict()
    until(lambda: log.stat().st_size > 0, 3)
    monkeypatch.setattr(envoy_module, "LARGEST_LOG", 1)
    until(log.with_name(f"{ACCESS_LOG}.1").is_file, 2)
    monkeypatch.undo()
    gateway.predict(headers={"x-request-id": "after"})
    until(lambda: log.is_file() and '"after"' in log.read_text(), 3)


def test_a_certificate_in_the_place_of_another_is_used(server: RunningServer, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        certificate.own(tmp_path / name)
    address = free_address()
    files = tuple((tmp_path / "first" / name).rename(tmp_path / name) for name in ("tls.crt", "tls.key"))

    def served() -> str:
        return ssl.get_server_certificate((address.host, address.port))

    with Gateway(tmp_path, [server.root], address, (files[0], files[1])):
        assert served() == files[0].read_text()
        for path in files:
            (tmp_path / "second" / path.name).replace(path)
        until(lambda: served() == files[0].read_text(), 3)


def test_a_port_that_is_taken_and_a_damaged_file_are_named(
    gateway: RunningGateway, server: RunningServer, tmp_path: Path
) -> None:
    with pytest.raises(PortError, match="--port"), Gateway(tmp_path, [server.root], gateway.address):
        pass
    assert not list((tmp_path / RUNNING).iterdir())  # they are perhaps those of the gateway that has the port
    (tmp_path / FILE).write_text("{")
    with pytest.raises(clients.ClientsError, match="add keys anew"):
        Gateway(tmp_path, [server.root], free_address())


def test_the_documented_commands_work(server: RunningServer, tmp_path: Path) -> None:
    port = free_address().port
    (tmp_path / "hand.jpg").write_bytes(PHOTO)
    (block,) = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / "gateway.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [
        line.partition("    #")[0].replace("8443", str(port)).replace("fingers", "shapes")
        for line in block.splitlines()
    ]
    install, add, start, key, predict, ready, show, revoke = (
        line.replace(".venv/bin/python", sys.executable) for line in lines
    )
    assert "requirements-gateway.txt" in install and key.strip() == "ANNS_KEY=key"  # .ci/run has it
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(command: str) -> str:
        shell = ["bash", "-c", f"set -o pipefail; {command.partition('  #')[0]}"]
        return subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60).stdout

    environment["ANNS_KEY"] = run(add).split()[-1]
    command = [*start.partition("  #")[0].split(), "--port", str(port), "--node", str(server.root)]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None and f"https://localhost:{port}" in process.stdout.readline()
        assert "triangle" in run(predict) and "ready" in run(ready) and "ann" in run(show)
        assert "no key any more" in run(revoke)
        until(lambda: '"code":401' in run(predict), 3)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=45)
    assert process.returncode == 0


def test_a_gateway_whose_folder_was_removed_starts_anew(server: RunningServer, tmp_path: Path) -> None:
    address = free_address()
    command = [sys.executable, "-m", "serving.gateway", "--port", str(address.port), "--node", str(server.root)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert [process.stdout.readline().split(":")[0] for _ in range(2)][1] == "No client has a key yet"
        shutil.rmtree(tmp_path / RUNNING)
        assert "was removed" in process.stdout.readline() and "The gateway is at" in process.stdout.readline()
        authentication = ("ann", clients.add(tmp_path, "ann"))
        context = ssl.create_default_context(cafile=str(tmp_path / RUNNING / CERTIFICATE))
        with httpx.Client(verify=context, trust_env=False) as session:
            url = f"https://localhost:{address.port}/predictions/shapes"
            until(lambda: session.post(url, content=PHOTO, auth=authentication).status_code == 200, 3)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=45)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--node", "absent"], "name with --node a folder in which make serve starts one"),
        (["--node", str(ROOT), "--node", f"{ROOT}/tests/.."], "twice"),
        (["--port", "70000"], "70000 is no port"),
        (["--host", "::1"], "no IPv4 address"),
        (["--node", str(ROOT), "--certificate", "a.crt", "--key", "a.key"], "does not exist"),
    ],
)
def test_wrong_arguments_are_named_in_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        assert command_line.main(arguments) == 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_a_second_gateway_in_the_same_folder_leaves_the_first_alone(gateway: RunningGateway, tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match="a gateway runs in"):
        Gateway(gateway.root, [tmp_path], free_address())
    assert gateway.predict().status_code == 200


def test_a_damaged_file_of_clients_costs_nobody_a_key(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    path = gateway.root / FILE
    text = path.read_text()
    for damaged in (
        '{"ann": {"sha1": "x", "rate": 1, "expires": 9e9}}',
        text.replace('"expires": 1', '"expires": "1'),
        "{",
    ):
        caplog.clear()
        path.write_text(damaged)
        until(lambda: "add keys anew" in caplog.text, 2)
        assert gateway.predict().status_code == 200
    path.write_text(text)


def test_a_request_under_way_is_answered_before_the_end(server: RunningServer, tmp_path: Path) -> None:
    key, address = clients.add(tmp_path, "ann", rate=RATE), free_address()
    running = Gateway(tmp_path, [server.root], address)
    with running, ThreadPoolExecutor(1) as pool:
        context = ssl.create_default_context(cafile=str(running.folder / "tls.crt"))
        connection = http.client.HTTPSConnection("localhost", address.port, timeout=10, context=context)
        connection.putrequest("POST", "/predictions/shapes")
        connection.putheader("Authorization", "Basic " + base64.b64encode(f"ann:{key}".encode()).decode())
        connection.putheader("Content-Length", str(len(PHOTO)))
        connection.endheaders(PHOTO[:100])
        envoy = running.envoy
        assert envoy is not None
        until(lambda: envoy.statistics("downstream_rq_active")["http.gateway.downstream_rq_active"] == 1, 2)
        ending = pool.submit(envoy.close)

        def refuses() -> bool:
            with contextlib.suppress(ConnectionError):
                socket.create_connection((address.host, address.port), timeout=1).close()
                return False
            return True

        until(refuses, 2)
        connection.send(PHOTO[100:])
        assert connection.getresponse().status == 200
        connection.close()
        ending.result(timeout=10)


def raiser(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_the_gateway_goes_on_after_a_fault_and_ends_with_envoy(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Gateway(tmp_path, [server.root], free_address()) as running:
        assert running.envoy is not None
        with monkeypatch.context() as patch, caplog.at_level("WARNING"):
            full = OSError(errno.ENOSPC, "the disk is full")
            patch.setattr(running, "_publish", raiser(full))
            running.look()
            running.look()
        assert caplog.text.count("the disk is full") == 1
        text, user = (running.folder / "routes.json").read_text(), "nobody:{SHA}AAAAAAAAAAAAAAAAAAAAAAAAAAA="
        (running.folder / "wrong.json").write_text(text.replace(user, f"{user}\\n{user}"))  # a name that comes twice
        (running.folder / "wrong.json").replace(running.folder / "routes.json")

        def is_said() -> bool:
            running.look()
            return "Envoy refuses a file" in caplog.text

        until(is_said, 3)
        running.envoy.process.kill()
        running.envoy.process.wait()
        with pytest.raises(GatewayError, match=r"ended with status -9"):
            running.look()
