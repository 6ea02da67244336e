"""A sample of `benchmarks.gateway.kills`: workers and a node die behind a real gateway."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.gateway import kills
from benchmarks.pages.results import TABLES
from serving.gateway.envoy import GatewayError, binary

try:
    binary()
except GatewayError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: apt-get install wrk")
def test_no_request_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = tmp_path / "benchmarks" / "results" / "gateway_kills.json"
    assert kills.main(["--kills", "2", "--output", str(result)]) == 0
    document = json.loads(result.read_text())
    assert document["failed"] == 0 and document["requests"] > 100
    assert "| `python -m benchmarks.gateway.kills" in TABLES["gateway"](result.parent)
