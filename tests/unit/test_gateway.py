"""The files of the gateway: its clients' keys, and what Envoy reads."""

import json
import stat
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from serving.gateway import __main__ as gateway_command
from serving.gateway import clients, deployed, nodes, resources, routes
from serving.gateway.canary_log import CanaryLog
from serving.gateway.clients import FILE, GatewayClient, GatewayClients, hash_of
from serving.gateway.nodes import NodeState
from serving.gateway.resources import ResourceFile


def test_a_key_is_shown_once_and_kept_as_a_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert clients.main(["add", "ann", "--rate", "7", "--days", "2"]) == 0
    key = capsys.readouterr().out.strip().rpartition(" ")[2]
    text = (tmp_path / FILE).read_text()
    assert len(key) > 40 and key not in text and hash_of(key) in text
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert clients.main([]) == 0
    table = capsys.readouterr().out
    assert "ann" in table and " 7 " in table and key not in table
    assert clients.main(["add", "ann"]) == 1 and "--replace" in capsys.readouterr().err
    assert (tmp_path / FILE).read_text() == text
    assert clients.main(["add", "ann", "--replace"]) == 0
    assert hash_of(key) not in (tmp_path / FILE).read_text()
    assert clients.main(["revoke", "ann"]) == 0
    assert GatewayClients.read(tmp_path).clients == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "Ann B"], "no name of a client"),
        (["add", "a:b"], "no name of a client"),
        (["add", "ann", "--rate", "0"], "name 1 to 100,000"),
        (["add", "ann", "--days", "0"], "cannot last 0 days"),
        (["add", "ann", "--days", "nan"], "cannot last nan days"),
        (["revoke", "ann"], "lists them"),
    ],
)
def test_what_cannot_be_is_named_in_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert clients.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert GatewayClients.read(tmp_path).clients == {}


def test_an_expired_key_is_not_valid() -> None:
    known = GatewayClients({"old": GatewayClient("x", 1, 100.0), "new": GatewayClient("y", 1, 300.0)})
    assert list(known.valid(200.0)) == ["new"]


def host_of(ready: dict[str, bool], known: dict[str, GatewayClient]) -> dict[str, Any]:
    (host,) = routes.resource(routes.template(), known, ready, {name: ["1.0"] for name in ready})["virtual_hosts"]
    assert isinstance(host, dict)
    return host


def test_routes_have_keys_rates_and_readiness() -> None:
    host = host_of({"cats": True, "dogs": False}, {"ann": GatewayClient("HASH=", 5, 1e10)})
    filters = host["typed_per_filter_config"]
    assert filters[routes.BASIC_AUTH]["users"]["inline_string"].splitlines()[1:] == ["ann:{SHA}HASH="]
    (descriptor,) = filters[routes.RATE_LIMIT]["descriptors"]
    assert (
        descriptor["entries"] == [{"key": "client", "value": "ann"}] and descriptor["token_bucket"]["max_tokens"] == 5
    )
    answers = {
        route["match"]["path"]: route["direct_response"]["status"]
        for route in host["routes"]
        if "path" in route["match"]
    }
    ready = {path: status for path, status in answers.items() if path.endswith(("ready", "ping")) or "/v1/" in path}
    assert ready == {
        "/ping": 503,
        "/v2/health/ready": 503,
        "/v2/models/cats/ready": 200,
        "/v2/models/dogs/ready": 503,
        "/v1/models/cats": 200,
        "/v1/models/dogs": 503,
    }
    assert host_of({}, {})["routes"][0]["direct_response"]["status"] == 503  # nothing is known yet
    assert routes.template() == routes.template()


def test_without_keys_nobody_needs_one() -> None:
    (host,) = routes.resource(routes.template(), None, {}, {})["virtual_hosts"]
    disabled = {name: entry.get("disabled") for name, entry in host["typed_per_filter_config"].items()}
    assert disabled == {routes.BASIC_AUTH: True, routes.RATE_LIMIT: True}


@pytest.mark.parametrize("words", ["--plain --certificate a --key b", "--no-keys --clients folder"])
def test_options_that_exclude_one_another_are_named(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gateway_command.main(words.split())
    assert "name the one or the other" in capsys.readouterr().err


def test_a_node_is_healthy_once_all_its_models_are() -> None:
    states = [NodeState("127.0.0.1", 1, "a", {"m": True}), NodeState("127.0.0.1", 2, "b", {"m": True, "n": False})]
    (locality,) = nodes.resource([*states, NodeState("127.0.0.1", 3, "c")])["endpoints"]
    assert [each["health_status"] for each in locality["lb_endpoints"]] == ["HEALTHY", "UNHEALTHY", "UNHEALTHY"]
    assert nodes.readiness(states) == {"m": True, "n": False}
    assert list(nodes.limits(3)["layer"].values()) == [3 * nodes.QUEUE] * 2
    assert list(nodes.limits(0)["layer"].values()) == [nodes.QUEUE] * 2
    assert "b" not in repr(states[1])  # its token is not shown


def test_a_node_that_loads_a_new_model_stays_healthy_for_the_others() -> None:
    def of(ready: dict[str, bool], loading: set[str]) -> NodeState:
        return NodeState("127.0.0.1", 1, "a", ready, loading=frozenset(loading))

    assert of({"m": True, "n": False}, {"n"}).is_healthy
    assert not of({"m": False, "n": False}, {"n"}).is_healthy  # m could answer before
    assert not of({"m": False, "n": False}, {"m", "n"}).is_healthy  # a server that starts


def test_a_model_counts_as_new_until_it_has_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = nodes.Node(tmp_path, lambda: None)
    for ready, answered in (
        ({"m": True, "n": False}, {"m"}),
        ({"m": False, "n": True}, {"m", "n"}),
        ({"n": True}, {"n"}),
    ):
        monkeypatch.setattr(node, "_readiness", lambda ready=ready: ready)
        node.look()
        assert node._answered == answered


def test_a_resource_is_written_only_if_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    file = ResourceFile(path, nodes.KIND)
    file.write({"cluster_name": "a"})
    first, inode = json.loads(path.read_text()), path.stat().st_ino
    file.write({"cluster_name": "a"})
    assert path.stat().st_ino == inode
    file.write({"cluster_name": "b"})
    second = json.loads(path.read_text())
    assert first["version_info"] != second["version_info"]
    assert stat.S_IMODE((tmp_path / "nodes.json").stat().st_mode) == 0o600


def test_the_limits_of_the_configuration_are_those_of_the_server() -> None:
    text = (deployed.FOLDER / "envoy.yaml").read_text()
    config = (deployed.FOLDER.parents[1] / "config.properties").read_text()
    document = yaml.safe_load(text)
    (size,) = [line.partition("=")[2] for line in config.splitlines() if line.startswith("max_request_size=")]
    assert f"max_request_bytes: {size} " in text
    named = [resources.ROUTES, resources.NODES, resources.LIMITS, resources.CERTIFICATE]
    assert all(f"path: ./{name}" in text for name in named)
    (thresholds,) = document["static_resources"]["clusters"][0]["circuit_breakers"]["thresholds"]
    assert thresholds["max_requests"] == thresholds["max_retries"] == nodes.QUEUE


def test_failures_of_a_canary_are_read_once_whatever_else_the_log_has(tmp_path: Path) -> None:
    class Node:
        address = "127.0.0.1:1"

        def __init__(self) -> None:
            self.failures: list[tuple[str, str]] = []

        def add_failure(self, model: str, reason: str) -> None:
            self.failures.append((model, reason))

    node, path = Node(), tmp_path / "canary.log"
    line = json.dumps({"failed": "127.0.0.1:1 m 2.0", "request_id": "r"}) + "\n"
    path.write_text(line)  # of an earlier deployment
    log = CanaryLog(path)

    def seen() -> int:
        log.report([cast(nodes.Node, node)])
        return len(node.failures)

    assert seen() == 0
    with open(path, "a") as file:
        file.write(line + '{"failed": "a b", "request_id": "r"}\n{"failed": null}\n{"half\n' + line + line[:10])
    assert seen() == seen() == 2 and node.failures[0] == ("m", "2.0 did not answer r")
    path.write_text(line)  # emptied, as of a full disk
    assert seen() == 3
