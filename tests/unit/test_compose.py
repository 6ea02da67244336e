"""deploy/compose: valid, pinned, and in agreement with the configuration that its containers read."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.lock import OPTIONAL
from serving.host.ports import Ports

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose" / "compose.yaml"
DEPENDABOT = ROOT / ".github" / "dependabot.yml"


def faults(text: str, schema: str) -> list[str]:
    """Return the faults of a document by a schema of the package check-jsonschema."""
    package = pytest.importorskip("check_jsonschema")
    path = Path(package.__file__).parent / "builtin_schemas" / "vendor" / f"{schema}.json"
    validator = jsonschema.Draft202012Validator(json.loads(path.read_text()))
    return [error.message for error in validator.iter_errors(yaml.safe_load(text))]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return document


@pytest.mark.parametrize(
    ("path", "schema", "text", "wrong"),
    [
        (COMPOSE, "compose-spec", "", ""),
        (COMPOSE, "compose-spec", "read_only: true", "readonly: true"),
        (COMPOSE, "compose-spec", "cap_drop: [ALL]", "cap_drop: ALL"),
        (COMPOSE, "compose-spec", "start_period: 5m", "start: 5m"),
        (DEPENDABOT, "dependabot", "", ""),
        (DEPENDABOT, "dependabot", "interval: weekly", "interval: sometimes"),
    ],
)
def test_it_is_valid_and_a_wrong_one_is_not(path: Path, schema: str, text: str, wrong: str) -> None:
    assert text in path.read_text()
    assert bool(faults(path.read_text().replace(text, wrong), schema)) == bool(wrong)


def test_foreign_images_are_named_by_their_digest(services: dict[str, Any]) -> None:
    foreign = [service["image"] for service in services.values() if service["image"] != "sightline"]
    assert len(foreign) == 3
    assert all(re.fullmatch(r"docker\.io/\S+:v?[0-9.]+@sha256:[0-9a-f]{64}", image) for image in foreign)


def test_every_file_that_is_mounted_exists(services: dict[str, Any]) -> None:
    binds = [
        volume for service in services.values() for volume in service.get("volumes", []) if volume["type"] == "bind"
    ]
    assert all((COMPOSE.parent / volume["source"]).exists() for volume in binds)
    assert all(volume["read_only"] for volume in binds)
    assert services["server"]["build"]["args"]["EXTRAS"] in OPTIONAL


def test_only_the_gateway_is_open_and_grafana_for_this_machine(services: dict[str, Any]) -> None:
    assert services.pop("network")["ports"] == ["8443:8443", "127.0.0.1:3000:3000"]
    assert all("ports" not in service and service["network_mode"] == "service:network" for service in services.values())
    for name in ("prometheus", "alertmanager"):
        (address,) = [word for word in services[name]["command"] if word.startswith("--web.listen-address=")]
        assert address.partition("=")[2].startswith("127.0.0.1:")


def test_each_finds_the_others_where_its_own_configuration_says(services: dict[str, Any]) -> None:
    addresses = {
        word.partition("=")[2]
        for name in ("prometheus", "alertmanager")
        for word in services[name]["command"]
        if word.startswith("--web.listen-address=")
    }
    ports = Ports.of_config((ROOT / "config.properties").read_text())
    served = {f"127.0.0.1:{ports.metrics.port}", f"127.0.0.1:{ports.metrics.port + 1}"}
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (alertmanager,) = config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    static = [each for job in config["scrape_configs"] for each in job["static_configs"]]
    datasources = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    (source,) = datasources["datasources"]
    assert {alertmanager, source["url"].removeprefix("http://")} == addresses
    assert {target for each in static for target in each["targets"]} == served
