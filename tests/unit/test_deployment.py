"""How many workers a version gets that is deployed on a server which runs already."""

import json
import os
from pathlib import Path

import httpx
import pytest

from handlers import machine
from serving import archive
from serving.client import Client
from serving.host.resources import WORKERS
from serving.host.state import KEY_FILE, ServerState, created
from serving.lifecycle.deployment import DeployLimits, Deployment
from serving.lifecycle.launch import CONFIG
from serving.store import model_store
from serving.store.live import Live, LiveModel
from tests.unit.archived_run import write_servable


@pytest.mark.parametrize(
    ("served", "live", "config", "expected"),
    [
        (1, "1.0", "", 8),
        (2, "1.0", "", 4),
        (2, None, "", 4),
        (4, "1.0", "", 2),
        (4, "1.0", f"{WORKERS}=8\n", 8),
        (4, None, f"{WORKERS}=8\n", 2),
    ],
)
def test_a_version_gets_its_part_of_the_models_that_are_served_by_then(
    served: int, live: str | None, config: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setattr(machine, "memory", lambda: 64 * 10**9)
    monkeypatch.setattr("serving.host.resources.gpus", lambda: 0)
    (tmp_path / CONFIG).write_text(config)
    run, store = write_servable(tmp_path / "runs" / "small"), tmp_path / model_store.FOLDER
    found = archive.build("small", "2.0", run=run, store=store, rehearse=False)
    if live:
        Live({"small": LiveModel(live)}).write(tmp_path)
    # Its only model had all 8 cores when it started.
    known = ServerState(os.getpid(), created(os.getpid()), "", "", "", str(tmp_path / KEY_FILE), "", workers=8)
    known.write(tmp_path)
    (tmp_path / KEY_FILE).write_text(json.dumps({"management": {"key": "second12"}}))
    models = {"models": [{"modelName": f"m{number}"} for number in range(served)]}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=models))
    with Client(inference="http://a", management="http://b", key_file=tmp_path / KEY_FILE, transport=transport) as it:
        assert Deployment(tmp_path, known, it, found, DeployLimits(), print)._workers() == expected
