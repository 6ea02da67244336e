"""The watcher on a real server: what dies or hangs comes back by itself, and the watcher says so."""

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from serving import archive, deploy
from serving import server as server_module
from serving.client import Client, ClientError
from serving.host import lock, ports
from serving.host.state import ServerState
from serving.lifecycle.deployment import DeployLimits
from serving.store import model_store
from serving.store.live import Live
from serving.watch import Watch
from tests.server import faulty
from tests.server.conftest import CLASSES, CONFIG, ROOT, export, free_offset, picture, run_cli
from tests.until import until

NAME = "shapes"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a server with shapes 2.0 live and 1.0 kept; 2.0 hangs, or cannot load, on demand."""
    root = tmp_path_factory.mktemp("watch")
    shutil.copy(CONFIG, root)
    for seed, version in enumerate(("1.0", "2.0")):
        run = root / "runs" / version
        export(run, CLASSES[NAME], seed)
        overrides = ["handler.precision=fp32", "minWorkers=1"]
        if version == "2.0":  # TorchServe soon gives up its workers
            overrides.append("maxRetryTimeoutInSec=1")
        archive.build(NAME, version, run=run, store=root / "model_store", overrides=overrides, rehearse=False)
    code = (
        faulty.hangs_while(root / "hang")
        + faulty.computes_while(root / "compute")
        + faulty.raises_while(root / "fail").replace("_unless", "_load_unless")
    )
    code += faulty.waits_while(root / "slow")
    faulty.spoil(model_store.find(NAME, "2.0", root / "model_store"), code)
    server_module.start([f"{NAME}=1.0"], root=root, offset=free_offset(22_000))
    deploy.deploy(NAME, "2.0", root=root, limits=DeployLimits(watch=0.1), verify=False, log=lambda _: None)
    yield root
    server_module.stop(root=root)


@pytest.fixture
def watched(home: Path) -> Iterator[Path]:
    """Run the watcher as a command while a test runs."""
    (home / "logs" / "watch.log").unlink(missing_ok=True)
    command = [sys.executable, "-m", "serving.watch"]
    process = subprocess.Popen(
        command, cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    until(lambda: (home / "logs" / "watch.log").exists(), 40)
    yield home
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "watching http://127.0.0.1" in output


def answers(root: Path, version: str = "2.0") -> bool:
    """Return whether the version answers, which a busy machine may take seconds for."""
    try:
        with Client(root=root, deadline=5.0) as client:
            return client.predict(picture(), NAME).version == version
    except ClientError:
        return False


def told(root: Path) -> str:
    """Return what the watcher wrote down."""
    return (root / "logs" / "watch.log").read_text()


def worker(root: Path, version: str = "2.0") -> int:
    """Return the process of a version's worker."""
    with Client(root=root) as client:
        return client.describe(NAME, version).workers[0].pid


@pytest.mark.parametrize(
    "with_workers", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["the front end", "the whole server"]
)
def test_a_server_that_was_killed_comes_back_with_the_same_versions_and_leaves_no_worker(
    watched: Path, with_workers: bool
) -> None:
    known = ServerState.read(watched)
    front = known.process() if known else None
    assert known is not None and front is not None
    workers = front.children(recursive=True)
    killed = [front, *workers] if with_workers else [front]
    for each in killed:
        each.kill()
    psutil.wait_procs(killed, timeout=10)
    until(lambda: answers(watched), 60, promised=True)  # after 20 s at most on a machine that does nothing else
    assert "the front end has ended" in told(watched)
    until(lambda: "the server runs again" in told(watched), 30)
    assert workers and not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in workers)
    with Client(root=watched) as client:
        assert client.describe(NAME).version == "2.0"
        assert {each.version: each.ready for each in client.versions(NAME)} == {"1.0": True, "2.0": True}
    assert not Path(known.temporary).exists()
    again = ServerState.read(watched)
    assert again is not None
    until(lambda: 'sightline_repairs_total{repair="front_end"} 1.0' in exported(again), 60)


def exported(server: ServerState) -> str:
    """Return the metrics of the exporter that the watcher has started, "" if it does not answer."""
    with contextlib.suppress(httpx.HTTPError):
        address = f"http://127.0.0.1:{ports.exporter_port(server.metrics)}/metrics"
        return httpx.get(address, timeout=10, trust_env=False).text
    return ""


def test_a_worker_that_torchserve_replaces_is_named(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.watch.GIVEN_UP", 60.0)  # a busy machine starts a process in more than the 6 seconds
    before = worker(home, "1.0")
    with contextlib.closing(Watch(home)) as watch:
        watch.look()
        psutil.Process(before).kill()

        def named() -> bool:
            watch.look()
            return f"a worker of {NAME} 1.0 has ended (process {before}): " in caplog.text

        until(named, 30)
    assert caplog.text.endswith(f": replaced by {worker(home, '1.0')}\n") and "was started here" not in caplog.text


@pytest.mark.slow
def test_a_front_end_that_does_not_answer_is_started_anew(watched: Path) -> None:
    known = ServerState.read(watched)
    front = known.process() if known else None
    assert front is not None
    front.suspend()
    until(lambda: "does not answer" in told(watched), 30, promised=True)
    until(lambda: answers(watched), 80, promised=True)
    until(lambda: "the server runs again" in told(watched), 30)


def test_a_queue_that_does_not_move_gets_another_worker(watched: Path) -> None:
    before = worker(watched)
    (watched / "hang").touch()
    with Client(root=watched, deadline=60) as client, ThreadPoolExecutor() as pool:
        # The first is with the worker, the second waits; both are answered in the end, by another worker.
        first = pool.submit(client.predict, picture(), NAME)
        until((watched / "hang.held").exists, 30)
        second = pool.submit(client.predict, picture(), NAME)
        try:
            until(lambda: "is stalled" in told(watched), 30, promised=True)
        finally:
            (watched / "hang").unlink()
        assert first.result().version == second.result().version == "2.0"
    assert worker(watched) != before


def test_workers_that_compute_are_left_to_their_own_time_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.watch.STALL_LIMIT", 1.0)
    before, (flag, held) = worker(home), (home / "compute", home / "compute.held")
    flag.touch()
    with (
        contextlib.closing(Watch(home)) as watch,
        ThreadPoolExecutor(2) as pool,
        Client(root=home, deadline=55.0) as client,
    ):
        first = pool.submit(client.predict, picture(), NAME)
        until(held.exists, 30)
        second = pool.submit(client.predict, picture(), NAME)
        until(lambda: client.describe(NAME).pending, 30)
        deadline = time.monotonic() + 2.5
        try:
            while time.monotonic() < deadline:
                watch.look()
        finally:
            flag.unlink()
        assert first.result().version == second.result().version == "2.0"
        assert worker(home) == before and client.describe(NAME).response_timeout == 60.0


def test_workers_that_were_given_up_are_replaced(watched: Path) -> None:
    (watched / "fail").touch()
    psutil.Process(worker(watched)).kill()
    try:
        # After TorchServe's tries.
        until(lambda: "lost a worker that TorchServe does not restart" in told(watched), 30, promised=True)
    finally:
        (watched / "fail").unlink()
    until(lambda: answers(watched), 50, promised=True)


def test_one_of_several_workers_is_replaced_beside_those_that_answer(watched: Path) -> None:
    with Client(root=watched) as client:
        client.scale(NAME, "2.0", 2)
        until(lambda: len(client.describe(NAME).workers) == 2 and client.describe(NAME).ready, 40)
        given_up, stays = client.describe(NAME).workers
        (watched / "fail").touch()
        psutil.Process(given_up.pid).kill()
        try:
            until(lambda: "2.0 lost a worker that TorchServe does not restart: starting 1 new" in told(watched), 40)
        finally:
            (watched / "fail").unlink()
        until(lambda: client.describe(NAME).ready, 50)
        pids = [each.pid for each in client.describe(NAME).workers if each.status == "READY"]
        assert len(pids) == 2 and stays.pid in pids, "the one that answers was left alone"
        assert told(watched).count("lost a worker") == 1
        client.scale(NAME, "2.0", 0)
        client.scale(NAME, "2.0", 1)
        until(lambda: answers(watched), 40)


def test_workers_beyond_those_that_are_wanted_go_again(watched: Path) -> None:
    with Client(root=watched) as client:
        first = worker(watched)
        client.scale(NAME, "2.0", 2)
        client.scale(NAME, "2.0", 1, max_workers=2)  # as the watcher does, of which both come to work
        until(lambda: len(client.describe(NAME).workers) == 1, 40)
        assert worker(watched) == first


@pytest.mark.slow
def test_a_management_address_that_is_mute_is_repaired(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ServerState.read(home)
    assert known is not None
    monkeypatch.setattr("serving.watch.DESCRIPTION_LIMIT", 0.2)
    monkeypatch.setattr("serving.watch.NO_MANAGEMENT", 5.0)  # more than one look takes on a busy machine
    with socket.socket(socket.AF_UNIX) as mute, contextlib.closing(Watch(home)) as watch:
        mute.bind(str(tmp_path / "m"))
        mute.listen()
        dataclasses.replace(known, management=f"unix:{tmp_path / 'm'}").write(home)
        watch.look()
        again = ServerState.read(home)
        assert again is not None and again.pid == known.pid, "it may only be slow"

        def repaired() -> bool:
            watch.look()
            return ServerState.read(home) != again

        until(repaired, 60)
    found = ServerState.read(home)
    assert found is not None and found.management != again.management and answers(home)


def look(root: Path) -> None:
    """Have a new watcher look once."""
    with contextlib.closing(Watch(root)) as watch:
        watch.look()


@pytest.mark.slow
def test_an_interrupted_repair_is_taken_up_by_the_next_watcher(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = ServerState.read(home)
    front = known.process() if known else None
    assert known is not None and front is not None
    front.kill()
    psutil.wait_procs([front], timeout=10)

    def interrupted(**_: object) -> None:
        server_module.stop(root=home)
        raise KeyboardInterrupt

    def stopped(**_: object) -> None:
        ServerState.stay_stopped(home)
        interrupted()

    with monkeypatch.context() as patch:
        patch.setattr(server_module, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            look(home)
        assert ServerState.read(home) == known
        patch.setattr(server_module, "start", stopped)
        with pytest.raises(KeyboardInterrupt):
            look(home)
    assert ServerState.read(home) is None, "somebody has stopped it meanwhile"
    known.write(home)
    look(home)
    assert known == ServerState.read(home), "who is about to stop it is left to it"
    ServerState.take_up(home)
    with contextlib.closing(Watch(home)) as watch:
        watch.starts.fail()
        until(watch.starts.is_due, 10)
        watch.look()
        assert answers(home) and not watch.starts.is_failing()


@pytest.mark.slow
def test_a_server_that_is_stopped_and_started_by_hand_is_left_alone(watched: Path) -> None:
    known = ServerState.read(watched)
    assert known is not None
    assert run_cli("serving.server", "stop", root=watched).returncode == 0
    look(watched)
    assert ServerState.read(watched) is None
    until(lambda: "the server was stopped: waiting until one is started here (make serve)" in told(watched), 30)
    started = run_cli("serving.server", "start", "--port-offset", str(known.offset), root=watched)
    assert started.returncode == 0, started.stderr
    look(watched)
    until(lambda: f"a server was started here: watching {known.inference}" in told(watched), 30)
    assert answers(watched) and "again" not in told(watched)


def test_what_a_killed_deployment_made_the_default_is_set_back(watched: Path) -> None:
    with Client(root=watched) as client:
        client.set_default(NAME, "1.0")
        until(lambda: client.describe(NAME).version == "2.0", 30, promised=True)
    until(lambda: "shapes 2.0 is the default again, as recorded in live.json" in told(watched), 30)


def test_what_should_be_live_and_is_not_served_is_loaded_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.watch.FIRST_WAIT", 0.0)
    with contextlib.closing(Watch(home)) as watch, Client(root=home) as client:
        client.set_default(NAME, "1.0")
        client.unregister(NAME, "2.0")
        assert run_cli("serving.status", root=home).stdout.count("shapes 2.0 should be live and is not served") == 1
        (home / "slow").touch()
        try:
            watch.look()
            assert answers(home, "1.0")
            until(lambda: "2.0" in {each.version for each in client.versions(NAME)}, 30)
            began = time.monotonic()
            watch.look()
            assert time.monotonic() - began < 10, "it goes on looking"
            until(lambda: can_deploy(home), 30)
            assert not client.describe(NAME, "2.0").ready
        finally:
            (home / "slow").unlink()

        def back() -> bool:
            watch.look()
            return client.describe(NAME).version == "2.0"

        until(back, 60)
    assert answers(home)


def can_deploy(root: Path) -> bool:
    """Return whether a deployment could begin."""
    try:
        with lock.deploying(root):
            return True
    except lock.Held:
        return False


@pytest.fixture
def loading(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """A watcher that has begun to load 2.0 in the place of 1.0; 2.0 takes until the test ends, and is live then."""
    monkeypatch.setattr("serving.watch.FIRST_WAIT", 0.0)
    with Client(root=home) as client:
        client.set_default(NAME, "1.0")
        client.unregister(NAME, "2.0")
        (home / "slow").touch()
        with contextlib.closing(Watch(home)) as watch:
            watch.look()
            until(lambda: "2.0" in {each.version for each in client.versions(NAME)}, 30)
            yield watch
        (home / "slow").unlink()
        if Live.read(home).models[NAME].version != "1.0":
            deploy.deploy(NAME, "1.0", root=home, verify=False, log=lambda _: None)
        deploy.deploy(NAME, "2.0", root=home, limits=DeployLimits(watch=0.1), verify=False, log=lambda _: None)


def test_a_watcher_that_ends_does_not_wait_for_what_it_loads(
    home: Path, loading: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    loading.close()
    assert time.monotonic() - began < 15 and "does not load" not in caplog.text
    with Client(root=home) as client:
        assert [each.version for each in client.versions(NAME)] == ["1.0"]


def test_a_deployment_beside_a_version_that_loads_leaves_the_one_that_answers(home: Path, loading: Watch) -> None:
    until(lambda: can_deploy(home), 30)
    deploy.deploy(NAME, "1.0", root=home, verify=False, log=lambda _: None)
    with Client(root=home) as client:
        assert [each.version for each in client.versions(NAME)] == ["1.0"] and answers(home, "1.0")


def test_whoever_starts_a_server_has_it_in_hand_until_he_is_gone(home: Path) -> None:
    known = ServerState.read(home)
    assert known is not None and not known.is_starting_or_stopping
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as starter:
        assert dataclasses.replace(known, busy=starter.pid).is_starting_or_stopping
        starter.communicate()
    assert not dataclasses.replace(known, busy=starter.pid).is_starting_or_stopping
    assert not dataclasses.replace(known, busy=os.getpid()).is_starting_or_stopping
