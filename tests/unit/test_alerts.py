"""The alerts, the routing and the dashboards: each alert fires in promtool's tests, and uses metrics that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_exporter import names_of_code

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "sightline.json"
SERIES = re.compile(r"\bsightline_\w+")
needs_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("amtool") is None,
    reason="needs Prometheus: apt-get install prometheus prometheus-alertmanager",
)


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return list(group["rules"])


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@needs_prometheus
@pytest.mark.parametrize(
    "command",
    [
        ["promtool", "check", "config", str(PROMETHEUS / "prometheus.yml")],
        ["promtool", "check", "rules", str(PROMETHEUS / "alerts.yml")],
        ["promtool", "test", "rules", "tests/unit/alerts.yml"],
        ["amtool", "check-config", str(PROMETHEUS / "alertmanager.yml")],
    ],
)
def test_prometheus_and_alertmanager_accept_the_configuration(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_quiet_in_one_test_and_fires_in_another() -> None:
    for rule in rules():
        tests = [
            test
            for case in yaml.safe_load((ROOT / "tests/unit/alerts.yml").read_text())["tests"]
            for test in case["alert_rule_test"]
            if test["alertname"] == rule["alert"]
        ]
        assert {bool(test["exp_alerts"]) for test in tests} == {True, False}, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning") and rule["annotations"].keys() == {
            "summary",
            "action",
        }


@pytest.mark.parametrize(
    "text", [(PROMETHEUS / "consoles" / "sightline.html").read_text(), *queries(), *map(str, rules())]
)
def test_queries_use_metrics_that_are_exported(text: str) -> None:
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in SERIES.findall(text)}
    assert names <= names_of_code().keys()


@needs_prometheus
def test_critical_alerts_go_to_another_receiver() -> None:
    for severity, receiver in (("critical", "at-once"), ("warning", "next-working-day")):
        command = ["amtool", "config", "routes", "test", f"--config.file={PROMETHEUS / 'alertmanager.yml'}"]
        done = subprocess.run([*command, f"severity={severity}"], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == receiver
