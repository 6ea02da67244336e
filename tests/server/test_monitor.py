"""`make monitor`: a real Prometheus and Alertmanager against a real server; dashboards show figures, alerts fire."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from monitoring import monitor
from serving import server as server_module
from serving.client import Client
from serving.errors import ServingError
from serving.lifecycle import exporter
from serving.store.live import Live
from tests.server.conftest import CONFIG, ROOT, free_offset, picture
from tests.unit.test_alerts import needs_prometheus, queries, rules
from tests.until import until

pytestmark = [pytest.mark.slow, needs_prometheus]
# Without value in this server: nothing failed, no version has a reference for drift or a bank of training images.
EMPTY = re.compile(r"5\.\.|drift|estimated|familiarity|restarts|refused")


@pytest.fixture(scope="module")
def home(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a server with its exporter."""
    home = tmp_path_factory.mktemp("monitored")
    shutil.copy(CONFIG, home)
    shutil.copytree(root / "model_store", home / "model_store")
    server_module.start(root=home, config=CONFIG, offset=free_offset(26000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with exporter.beside(home):
            yield home
    server_module.stop(root=home)


@pytest.fixture(scope="module")
def addresses(home: Path) -> Iterator[tuple[str, str]]:
    """Return the addresses of a Prometheus and an Alertmanager that wait for nothing."""
    folder = home / "deploy"
    shutil.copytree(monitor.DEPLOY, folder)
    for name, pattern, value in (
        ("alerts.yml", r"for: \w+", "for: 0s"),
        ("prometheus.yml", r"_interval: \w+", "_interval: 1s"),
        ("alertmanager.yml", r"group_wait: \w+", "group_wait: 0s"),
    ):
        (folder / name).write_text(re.sub(pattern, value, (folder / name).read_text()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitor, "DEPLOY", folder)
        patch.setenv("SIGHTLINE_PORT_OFFSET", str(free_offset(28000)))
        with monitor.monitor(home) as addresses:
            yield addresses


def asked(prometheus: str, query: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", answer
    return list(answer["data"]["result"])


def test_each_query_of_the_dashboard_and_the_page_has_a_figure(home: Path, addresses: tuple[str, str]) -> None:
    prometheus, _ = addresses
    with Client(root=home) as client:

        def has_rates() -> bool:
            client.predict(picture(), "shapes")
            return bool(asked(prometheus, 'rate(sightline_requests_total{model="shapes"}[5m]) > 0'))

        until(has_rates, 60)
    page = (ROOT / "docs" / "monitoring.md").read_text().partition("## Questions")[2]
    of_page = re.findall(r"\| `(.+?)` \|$", page, re.MULTILINE)
    assert of_page
    for query in [*queries(), *of_page]:
        found = asked(prometheus, query.replace("$model", "shapes"))
        assert found or EMPTY.search(query) or "unless" in query, query
    for query in (rule["expr"] for rule in rules()):
        asked(prometheus, query)
    console = httpx.get(f"{prometheus}/consoles/sightline.html")
    assert console.status_code == 200 and "<td>shapes<td>1.0" in re.sub(r"\s*\n", "", console.text)
    assert "error" not in console.text.lower()


def firing(alertmanager: str) -> dict[str, dict[str, Any]]:
    alerts = httpx.get(f"{alertmanager}/api/v2/alerts").json()
    return {alert["labels"]["alertname"]: alert for alert in alerts}


def test_alerts_reach_the_receiver_of_their_severity(home: Path, addresses: tuple[str, str]) -> None:
    _, alertmanager = addresses
    live = Live.read(home)
    document = json.loads((home / "model_store" / "live.json").read_text())
    key = home / "key_file.json"
    os.utime(key, (time.time() - 7200, time.time() - 7200))
    until(lambda: "SightlineOldKey" in firing(alertmanager), 60)
    assert firing(alertmanager)["SightlineOldKey"]["receivers"] == [{"name": "next-working-day"}]

    (home / "model_store" / "live.json").write_text(json.dumps(document).replace('"1.0"', '"9.0"'))
    wanted = {"SightlineOtherDefault", "SightlineWithoutWorker"}
    until(lambda: wanted <= firing(alertmanager).keys(), 60)
    assert firing(alertmanager)["SightlineWithoutWorker"]["receivers"] == [{"name": "at-once"}]
    (home / "model_store" / "live.json").write_text(json.dumps(document))
    assert Live.read(home) == live

    server_module.stop(root=home)
    until(lambda: "SightlineDown" in firing(alertmanager), 60)

    def is_suppressed() -> bool:
        alert = firing(alertmanager).get("SightlineWithoutWorker")
        return alert is not None and alert["status"]["state"] == "suppressed"

    until(is_suppressed, 60)


def test_a_taken_port_and_a_missing_package_are_one_line(
    home: Path, addresses: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(addresses[1].rpartition(":")[2])
    monkeypatch.setenv("SIGHTLINE_PORT_OFFSET", str(port - monitor.ALERTMANAGER))
    taken = f"port {port} is taken: stop the prometheus-alertmanager"
    with pytest.raises(ServingError, match=taken), monitor.monitor(home):
        pass
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServingError, match="apt-get install prometheus prometheus-alert"), monitor.monitor(home):
        pass


def test_the_configuration_has_the_ports_of_the_server(home: Path, addresses: tuple[str, str]) -> None:
    document = yaml.safe_load((home / monitor.FOLDER / "prometheus.yml").read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in document["scrape_configs"]}
    exported, torchserve = (int(targets[job][0].rpartition(":")[2]) for job in ("sightline", "torchserve"))
    assert exported == torchserve + 1 != 8083


def test_a_closed_terminal_ends_both(home: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SIGHTLINE_PORT_OFFSET": str(free_offset(30000))}
    command = [sys.executable, "-m", "monitoring.monitor"]
    with subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline().startswith("Overview http://127.0.0.1:")
        children = psutil.Process(process.pid).children()
        assert len(children) == 2
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
    assert not psutil.wait_procs(children, timeout=10)[1]
