"""A run that looks at some sections keeps what an earlier one found of the others."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import result
from benchmarks.result import Origin, Sections


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


def test_the_exit_status_says_that_a_goal_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = run(tmp_path / "crashes.json", monkeypatch)
    assert (sections.publish(failed=False), sections.publish(failed=True)) == (0, 1)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [sections.document] * 2
    origin = Origin("sweep", [])
    assert (origin.publish({}, None), origin.publish({}, tmp_path / "sweep.json", failed=True)) == (0, 1)
    assert json.loads((tmp_path / "sweep.json").read_text())["benchmark"] == "sweep"


def test_an_origin_has_the_highest_load_and_the_code_of_its_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    origin = Origin("sweep", ["--rounds", "3"], code=("handlers",))
    assert set(origin.code) == {"handlers", "benchmarks/sweep.py"}
    loads = iter([0.7, 0.2])
    monkeypatch.setattr(result, "busy_cores", lambda: next(loads))
    assert [origin.run()["elsewhere_cores"] for _ in range(2)] == [0.7, 0.7]


def test_a_fingerprint_changes_with_code_configuration_and_names(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "a.yaml").write_text("1")
    fingerprints = [result.fingerprint(tmp_path)]
    (tmp_path / "a.yaml").write_text("2")
    fingerprints.append(result.fingerprint(tmp_path))
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
    fingerprints.append(result.fingerprint(tmp_path))
    assert len(set(fingerprints)) == 3
    (tmp_path / "a.json").write_text("{}")
    assert result.fingerprint(tmp_path) == fingerprints[-1]


def test_a_page_names_the_highest_load_and_the_code_that_changed(tmp_path: Path) -> None:
    (tmp_path / "same.py").write_text("1")
    run = {"commit": None, "time": "2025-01-02T03:04:05Z", "elsewhere_cores": 0.25}
    code = {"same.py": result.fingerprint(tmp_path / "same.py"), "removed.py": "0"}
    documents = [{"origins": {"a": {**run, "code": code}, "b": {**run, "elsewhere_cores": 1.5, "code": code}}}]
    assert result.sentences(documents, tmp_path) == (
        "Commit unknown of 2025-01-02; used by other programs: up to 1.50 cores. **Changed since then: removed.py.**"
    )
