"""A run of `benchmarks.crashes` that looks at a part keeps what an earlier one found of the others."""

import json
from pathlib import Path

import pytest

from benchmarks import crashes


def test_what_was_not_measured_anew_stays(tmp_path: Path) -> None:
    path = tmp_path / "crashes.json"
    first = crashes.completed({"steps": [{"step": "load"}], "workers": {"killed": 3}}, "all of it", path)
    assert first["command"] == "all of it" and "servers" not in first
    path.write_text(json.dumps(first))
    second = crashes.completed({"servers": {"killed": 2}}, "servers alone", path)
    assert (second["steps"], second["workers"]) == (first["steps"], first["workers"])
    assert second["servers"] == {"killed": 2}
    assert second["commands"] == {"steps": "all of it", "workers": "all of it", "servers": "servers alone"}
    assert second["command"] == "all of it`, `servers alone"
    third = crashes.completed({"workers": {"killed": 9}, "steps": [], "servers": {}}, "anew", path)
    assert third["command"] == "anew" and third["workers"] == {"killed": 9}


def test_what_another_machine_found_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "crashes.json"
    path.write_text(json.dumps(crashes.completed({"workers": {"killed": 3}}, "all of it", path)))
    monkeypatch.setattr(crashes, "versions", lambda: {"torch": "3.0"})
    found = crashes.completed({"servers": {"killed": 2}}, "servers alone", path)
    assert "workers" not in found and found["command"] == "servers alone"
