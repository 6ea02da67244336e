"""A run that looks at some sections keeps what an earlier one found of the others."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import result
from benchmarks.result import Sections


@pytest.fixture(autouse=True)
def _unmeasured_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "busy_cores", lambda: 0.0)


def run(path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Sections:
    monkeypatch.setattr(sys, "argv", ["crashes", *arguments])
    return Sections("crashes", path, rate=20)


def test_what_was_not_measured_anew_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "crashes.json"
    first = run(path, monkeypatch)
    first.write("steps", [{"step": "load"}])
    written = json.loads(path.read_text())
    assert written == first.document, "a section is written as soon as it is there"
    assert (written["sections"], written["rate"]) == ({"steps": [{"step": "load"}]}, 20)
    first.write("workers", {"killed": 3})

    second = run(path, monkeypatch, "--servers", "2")
    assert second.figures == first.figures
    second.write("servers", {"killed": 2})
    second.write("workers", {"killed": 9})
    assert json.loads(path.read_text()) == second.document
    assert second.figures == {"steps": [{"step": "load"}], "servers": {"killed": 2}, "workers": {"killed": 9}}
    anew = "python -m benchmarks.crashes --servers 2"
    assert set(second.origins) == {"steps", "servers", "workers"} and second.origins["workers"]["command"] == anew
    assert second.commands == {"steps": "python -m benchmarks.crashes", "servers": anew, "workers": anew}


def test_what_another_machine_found_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "crashes.json"
    run(path, monkeypatch).write("workers", {"killed": 3})
    monkeypatch.setattr(result, "versions", lambda: {"torch": "3.0"})
    second = run(path, monkeypatch)
    assert second.figures == {} and second.commands == {}
    second.write("servers", {"killed": 2})
    assert json.loads(path.read_text())["sections"] == {"servers": {"killed": 2}}
