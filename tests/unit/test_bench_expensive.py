"""The check of good requests beside expensive ones: it passes on nothing else."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from benchmarks import expensive
from benchmarks.traffic.client_load import through_client
from serving.client import Client

ROW = json.loads(expensive.RESULT.read_text())["sections"]["large"]


@pytest.mark.parametrize(
    "change",
    [
        {"expensive": {}},
        {"expensive": {"200": 1, "500": 1}},
        {"requests": 100},
        {"failed": 1},
        {"p99": 3001.0},
        {"workers_ended": 1},
        {"watcher": ["a worker is ended"]},
    ],
)
def test_the_check_sees_what_is_lost_and_what_was_not_sent(change: dict[str, Any]) -> None:
    assert expensive.goals_met(ROW)
    assert not expensive.goals_met({**ROW, **change})


def test_a_request_that_fails_as_nobody_expects_is_counted(tmp_path: Path) -> None:
    with (
        mock.patch.object(Client, "predict", side_effect=ValueError("no answer")),
        through_client(tmp_path, [b""], rate=100.0, deadline=1.0) as load,
    ):
        assert load.request_sent.wait(10)
    assert load.errors and load.figures()["errors"] == ["ValueError: no answer"]
