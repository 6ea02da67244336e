"""Three servers behind a gateway that serve the versions of one fleet, each with its `make watch`."""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness import small_server
from pipeline.receiving.targets import FleetTarget, protected
from serving import archive
from serving import server as server_module
from serving.client import Client
from serving.errors import ServingError
from serving.fleet.agent import served
from serving.fleet.deployment import FleetDeployment
from serving.fleet.desired import FleetError
from serving.fleet.reports import Reports
from serving.host.state import ServerState
from serving.lifecycle.deployment import DeployLimits
from serving.store.live import Live
from tests.server import gateways
from tests.server.conftest import CLASSES, CONFIG, ROOT, export, free_offset, run_cli
from tests.server.gateways import MODEL as NAME
from tests.server.gateways import RunningGateway, versions
from tests.until import until

NODES, CALL_RATE = ("a", "b", "c"), 30.0  # requests/s


@dataclasses.dataclass(frozen=True, slots=True)
class RunningFleet:
    """Its address, the folder where archives are built, and the watchers of its nodes."""

    url: str
    root: Path
    watchers: dict[str, "subprocess.Popen[bytes]"]

    def build(self, version: str, fault: str = "") -> None:
        """Build a version with the weights of the first one."""
        if (self.root / "model_store" / f"{NAME}-{version}.mar").exists():
            return
        built = archive.build(
            NAME, version, run=self.root / "runs" / NAME, store=self.root / "model_store",
            overrides=["minWorkers=1", "handler.precision=fp32"], rehearse=False,
        )  # fmt: skip
        if fault:
            small_server.rebuild(built.path, fault)

    def deploy(self, version: str) -> list[str]:
        """Deploy a version to all nodes; return the log."""
        said: list[str] = []
        limits = DeployLimits(watch=0.5)
        FleetDeployment(self.url, said.append).deploy(NAME, version, self.root, limits=limits, verify=False)
        return said

    def versions(self) -> list[str | None]:
        """Return the version that each node records as live."""
        models = [Live.read(self.root / node).models.get(NAME) for node in NODES]
        return [model.version if model is not None else None for model in models]

    def answers(self) -> list[str]:
        """Return the default version of each node, as its server says it."""
        found = []
        for node in NODES:
            with Client(root=self.root / node) as client:
                found.append(client.describe(NAME).version)
        return found

    def watch(self, node: str, offset: int = 0) -> None:
        """Run `make watch FLEET=` of a node; `offset` is that of a server which it starts."""
        command = [sys.executable, "-m", "serving.watch", "--fleet", self.url, "--node", node]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SIGHTLINE_PORT_OFFSET": str(offset)}
        self.watchers[node] = subprocess.Popen(
            command, cwd=self.root / node, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    """Return a running fleet whose first version is deployed."""
    root = tmp_path_factory.mktemp("fleet")
    export(root / "runs" / NAME, CLASSES[NAME])
    with contextlib.ExitStack() as stack:
        running = RunningFleet(str(root / "shared"), root, {})
        running.build("1.0")
        for number, node in enumerate(NODES):
            (root / node / "model_store").mkdir(parents=True)
            shutil.copy(CONFIG, root / node)
            for path in (root / "model_store").glob("*1.0*"):
                shutil.copy(path, root / node / "model_store")
            stack.callback(server_module.stop, root=root / node)
            server_module.start(root=root / node, config=CONFIG, offset=free_offset(35_000 + 100 * number))
            running.watch(node)
        stack.callback(end, running)
        until(lambda: len(Reports(running.url).read()) == len(NODES), 30)
        yield running


@pytest.fixture(scope="module")
def gateway(fleet: RunningFleet) -> Iterator[RunningGateway]:
    """Return a gateway that follows the fleet."""
    with gateways.running(fleet.root, [], fleet=fleet.url) as running:
        yield running


def end(fleet: RunningFleet, *nodes: str) -> None:
    """End `make watch` of nodes, by default of all."""
    for node in nodes or list(fleet.watchers):
        process = fleet.watchers.pop(node)
        process.send_signal(signal.SIGINT)
        process.wait(60)


def test_a_version_goes_live_on_one_node_after_the_other_and_back(fleet: RunningFleet, gateway: RunningGateway) -> None:
    fleet.deploy("1.0")  # the nodes serve it already
    fleet.build("1.1")
    with gateway.callers(CALL_RATE) as answers:
        until(lambda: len(answers) > 20, 10)
        said = fleet.deploy("1.1")
        end_of_deployment = len(answers)
        until(lambda: len(answers) > end_of_deployment + 20, 10)
    assert [line for line in said if line.endswith(" of 3) ...")] == [
        "a (1 of 3) ...",
        "b (2 of 3) ...",
        "c (3 of 3) ...",
    ]
    assert set(versions(answers)) == {"1.0", "1.1"}
    assert set(versions(answers[end_of_deployment:])) == {"1.1"} and fleet.answers() == ["1.1"] * 3
    assert FleetDeployment(fleet.url).rollback(NAME) == "1.0"
    assert fleet.answers() == fleet.versions() == ["1.0"] * 3
    status = run_cli("serving.fleet.status", fleet.url, root=fleet.root)
    assert f"{NAME} 1.0, before 1.1" in status.stdout and all(f" {node} " in status.stdout for node in NODES)


def test_a_version_that_the_last_node_cannot_load_is_undone_on_all(
    fleet: RunningFleet, gateway: RunningGateway
) -> None:
    before = fleet.versions()
    fleet.build("2.0", small_server.raises_on(fleet.root / "c"))
    with (
        gateway.callers(CALL_RATE) as answers,
        pytest.raises(FleetError, match=r"undone on every node: c: .*not on this machine"),
    ):
        fleet.deploy("2.0")
    assert fleet.answers() == fleet.versions() == before
    assert "2.0" in versions(answers) and set(versions(answers)) == {before[0], "2.0"}
    for node in NODES:
        with Client(root=fleet.root / node) as client:
            assert "2.0" not in [status.version for status in client.versions(NAME)]
    with gateway.callers(CALL_RATE) as answers:
        until(lambda: len(answers) > 20, 10)
    assert set(versions(answers)) == {before[0]}


def test_what_cannot_be_deployed_is_said_in_a_line(fleet: RunningFleet, tmp_path: Path) -> None:
    live = fleet.versions()[0]
    if not FleetDeployment(fleet.url).desired().models:
        fleet.deploy(str(live))
    for arguments, message in (
        ([fleet.url, NAME, str(live)], "is live already"),
        ([fleet.url, NAME, "9.9"], "no archive of shapes 9.9"),
        ([str(tmp_path / "nobody"), NAME, "1.0"], "no fleet is at"),
        (["nosuch://fleet", NAME, "1.0"], "check the address"),
        ([fleet.url, "absent", "--rollback"], "has no version of absent before this one"),
    ):
        done = run_cli("serving.fleet.deploy", *arguments, root=fleet.root)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 1 and line.startswith("error: ") and message in line
    shutil.copytree(fleet.root / "runs", tmp_path / "runs")
    assert not (tmp_path / "nobody").exists()
    for arguments, message in (
        (["nobody"], "no fleet is at nobody"),
        ([fleet.url, "--forget", "a"], "a follows the fleet"),
    ):
        done = run_cli("serving.fleet.status", *arguments, root=fleet.root)
        assert done.returncode == 1 and message in done.stderr
    trial = run_cli("serving.fleet.deploy", fleet.url, NAME, "--shadow", "0.1", root=fleet.root)
    assert trial.returncode == 2 and "trials and KEEP=0 are for one server" in trial.stderr
    second = run_cli("serving.watch", "--fleet", fleet.url, "--node", "a", root=fleet.root / "a")
    assert second.returncode == 1 and "another make watch runs here" in second.stderr
    store = tmp_path / "model_store"
    archive.build(NAME, "1.0", run=tmp_path / "runs" / NAME, store=store, overrides=["batchSize=2"], rehearse=False)
    with pytest.raises(ServingError, match=r"has another shapes 1\.0"):
        FleetDeployment(fleet.url).deploy(NAME, "1.0", tmp_path, verify=False)


@pytest.mark.slow
def test_a_push_deploys_to_all_nodes_and_its_undo_takes_them_back(fleet: RunningFleet) -> None:
    if not FleetDeployment(fleet.url).desired().models:
        fleet.deploy(str(fleet.versions()[0]))
    before = str(fleet.versions()[0])
    fleet.build("8.0")
    target = FleetTarget(fleet.url, fleet.root, print)
    target.deploy(NAME, "8.0")
    assert fleet.versions() == ["8.0"] * 3 and protected(target, NAME) == {"8.0", before}
    target.undo(NAME, "8.0")
    assert fleet.answers() == fleet.versions() == [before] * 3
    until(lambda: not any("8.0" in str(Live.read(fleet.root / node).models[NAME]) for node in NODES), 10)
    with pytest.raises(FleetError, match="no version of shapes before this one"):
        FleetDeployment(fleet.url).rollback(NAME)
    target.undo(NAME, "8.0")
    assert fleet.versions() == [before] * 3
    path = fleet.root / "model_store" / f"{NAME}-{before}.mar"
    path.unlink()
    target.fetch(NAME, before)
    target.prune(NAME, 1)
    assert path.is_file()


@pytest.mark.slow
def test_a_new_model_that_one_node_cannot_load_goes_everywhere(fleet: RunningFleet) -> None:
    before = fleet.versions()
    store, run = fleet.root / "model_store", fleet.root / "runs" / NAME
    built = archive.build("other", "1.0", run=run, store=store, overrides=["minWorkers=1"], rehearse=False)
    small_server.rebuild(built.path, small_server.raises_on(fleet.root / "b"))
    with pytest.raises(FleetError, match=r"undone on every node: b: .*not on this machine"):
        FleetDeployment(fleet.url).deploy("other", "1.0", fleet.root, verify=False)
    for node in NODES:
        with Client(root=fleet.root / node) as client:
            assert client.models() == [NAME]
        assert list(Live.read(fleet.root / node).models) == [NAME]
    assert fleet.versions() == before


@pytest.mark.slow
def test_a_node_that_is_killed_in_its_turn_takes_it_again(fleet: RunningFleet, gateway: RunningGateway) -> None:
    fleet.build("3.0")

    def kill() -> None:
        until(lambda: fleet.versions()[0] == "3.0", 60)
        small_server.kill(fleet.root / "b")

    killer = threading.Thread(target=kill)
    killer.start()
    with gateway.callers(CALL_RATE) as answers:
        fleet.deploy("3.0")
        killer.join()
        end_of_deployment = len(answers)
        until(lambda: len(answers) > end_of_deployment + 20, 10)
    assert fleet.answers() == ["3.0"] * 3
    assert set(versions(answers[end_of_deployment:])) == {"3.0"}
    assert all(answer.status_code == 200 for answer in answers)


@pytest.mark.slow
def test_a_node_that_has_died_serves_the_fleet_s_version_once_it_is_back(
    fleet: RunningFleet, gateway: RunningGateway
) -> None:
    fleet.build("4.0")
    before = fleet.versions()[2]
    fleet.watchers["c"].kill()  # its server goes on with the version before
    fleet.watchers["c"].wait()
    with gateway.callers(CALL_RATE) as answers:
        said = fleet.deploy("4.0")
        end_of_deployment = len(answers)
        until(lambda: len(answers) > end_of_deployment + 40, 10)
        assert any(line.startswith("  c ") and "left out" in line for line in said)
        assert fleet.answers() == ["4.0", "4.0", before]
        fleet.watch("c")
        until(lambda: fleet.answers() == ["4.0"] * 3, 60)
        until(lambda: fleet.versions() == ["4.0"] * 3, 30)
    assert set(versions(answers[end_of_deployment:])) == {"4.0"}
    assert all(answer.status_code == 200 for answer in answers)


@pytest.mark.slow
def test_a_node_that_is_added_starts_a_server_with_the_fleet_s_version(fleet: RunningFleet) -> None:
    node = fleet.root / "d"
    node.mkdir()
    shutil.copy(CONFIG, node)
    fleet.watch("d", free_offset(36_000))
    try:
        until(lambda: served(node) == {NAME: fleet.versions()[0]}, 60)
        until(lambda: NAME in Live.read(node).models, 20)
        assert (node / "model_store" / f"{NAME}-{fleet.versions()[0]}.mar").is_file()
        server_module.stop(root=node)
        ServerState.stay_stopped(node)  # as make stop does
        fleet.build("6.0")
        said = fleet.deploy("6.0")
        assert any(line.startswith("  d is left out, and") for line in said) and fleet.versions() == ["6.0"] * 3
    finally:
        end(fleet, "d")
        server_module.stop(root=node)
        Reports(fleet.url).remove("d")


@pytest.mark.slow
def test_an_interrupted_deployment_is_undone_on_all_nodes(fleet: RunningFleet) -> None:
    fleet.build("5.0")
    before = fleet.versions()
    command = [sys.executable, "-m", "serving.fleet.deploy", fleet.url, NAME, "5.0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=fleet.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: fleet.versions()[0] == "5.0", 60)
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=120)
    assert process.returncode == 1 and "undone on every node: interrupted" in error and "waiting for them" in output
    assert fleet.answers() == fleet.versions() == before
