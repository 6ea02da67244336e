"""The figures of the serving benchmark are those of its raw rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import chart
from benchmarks.comparison import figures as serving_figures
from benchmarks.comparison.figures import Figures
from benchmarks.pages import serving_tables


def raw(row: str, rate: float, connections: int = 64, body: str = "200x200", **more: Any) -> dict[str, Any]:
    about = {"row": row, "round": 1, "kind": "served" if connections else "in process", "body": body}
    return {**about, "connections": connections, "requests_per_second": rate, "refused": 0, "broken": 0, **more}


RUNS = [
    *(raw("ours-bf16", rate) for rate in (400.0, 440.0, 430.0)),
    raw("ours-bf16", 100.0, 1, p50=9.0),
    *(raw("litserve-ours", rate) for rate in (200.0, 215.0, 240.0)),
    raw("noop", 2000.0),
    raw("in-process-bf16", 500.0, 0, single_ms=7.0),
]
OPEN: dict[str, Any] = {
    "rate": 300.0,
    "p50": 10.0,
    "p99": 25.0,
    "longest": 60.0,
    "lateness": 1.0,
    "failures": 0,
    "behind": False,
}
OPEN |= {"row": "ours-bf16", "round": 1, "kind": "open", "body": "200x200"}


def figures(*more: dict[str, Any]) -> Figures:
    runs = [*RUNS, *more]
    return Figures(serving_figures.cells(runs), serving_figures.open_cells(runs))


def test_a_cell_is_the_median_with_its_range() -> None:
    cell = serving_figures.cells(RUNS)["ours-bf16"]["200x200"]["64"]
    assert (cell["requests_per_second"], cell["low"], cell["high"], cell["rounds"]) == (430, 400, 440, 3)
    assert cell["spread"] == pytest.approx(40 / 430, abs=1e-4) and cell["failed"] == 0


def test_failures_of_all_rounds_are_kept() -> None:
    runs = [raw("a", 1.0, refused=2), raw("a", 1.0, broken=3)]
    assert serving_figures.cells(runs)["a"]["200x200"]["64"]["failed"] == 5


def test_targets_are_computed_and_judged() -> None:
    found = {each["name"]: each for each in serving_figures.targets(figures(OPEN))}
    assert (found["bf16, 64 connections, 200x200"]["value"], found["bf16, 64 connections, 200x200"]["met"]) == (
        430,
        True,
    )
    assert found["LitServe, our parts, 64 (bf16)"]["value"] == 2.0 and found["LitServe, our parts, 64 (bf16)"]["met"]
    above = found["serving overhead relative to a no-op handler (bf16, 200x200)"]
    assert above["value"] == pytest.approx((1 / 430 - 1 / 500) * 2000, abs=1e-3) and above["met"]
    assert found["one connection, median above in process (bf16, 200x200)"]["value"] == 2.0
    assert found["open loop at 70 %, p99 / median (bf16, 200x200)"]["value"] == 2.5
    assert found["in process, bf16, 200x200"]["met"]
    missing = found["int8, 64 connections, 200x200"]
    assert missing["value"] is None and missing["met"] is None


def test_a_peer_is_held_against_each_precision_by_itself() -> None:
    runs = [raw("ours-bf16", 400.0), raw("ours-int8", 600.0), raw("bentoml-documented", 60.0)]
    found = {each["name"]: each for each in serving_figures.targets(Figures(serving_figures.cells(runs), {}))}
    slower, faster = (found[f"BentoML as documented, 64 ({precision})"] for precision in ("bf16", "int8"))
    assert (slower["met"], faster["met"], faster["value"]) == (False, True, 10.0)


def test_a_missed_target_is_missed() -> None:
    runs = [
        raw("ours-bf16", 429.0),
        raw("ours-bf16", 50.0, 1, p50=20.0),
        raw("in-process-bf16", 459.0, 0, single_ms=7.0),
    ]
    found = {each["name"]: each["met"] for each in serving_figures.targets(Figures(serving_figures.cells(runs), {}))}
    assert found["bf16, 64 connections, 200x200"] is False and found["in process, bf16, 200x200"] is False
    assert found["one connection, median above in process (bf16, 200x200)"] is False


def test_a_server_faster_than_its_ceiling_meets_nothing() -> None:
    runs = [raw("ours-bf16", 400.0), raw("in-process-bf16", 100.0, 0, single_ms=10.0), raw("noop", 2000.0)]
    runs += [raw("ours-bf16", 50.0, 1, p50=5.0)]
    found = {each["name"]: each for each in serving_figures.targets(Figures(serving_figures.cells(runs), {}))}
    for name in found:
        if "above in process" in name or "an image above" in name:
            assert found[name]["value"] < 0 and found[name]["met"] is None


def test_a_tail_with_failures_is_not_a_tail() -> None:
    assert figures({**OPEN, "failures": 1}).tail("ours-bf16") is None
    assert figures(OPEN).tail("ours-bf16") == 2.5


def result() -> dict[str, Any]:
    kept = {"precision": "bf16", "ours": False, "chart": True, "full": True, "reason": None, "kind": "served"}
    rows = [
        {**kept, "name": "litserve-ours", "title": "LitServe, our parts"},
        {**kept, "name": "ours-bf16", "title": "Sightline, bf16", "ours": True},
        {**kept, "name": "ours-int8", "title": "Sightline, int8", "reason": "precision is 'int8'"},
        {**kept, "name": "noop", "title": "nothing", "full": False},
        {**kept, "name": "in-process-bf16", "title": "in process", "kind": "in process"},
    ]
    about = {"rounds": 3, "seconds": 4, "generator_cores": 0.1, "elsewhere_cores": 0.0, "connections": [1, 16, 64]}
    found = figures(OPEN)
    return {
        **about,
        "command": "python -m benchmarks.serving",
        "rows": rows,
        "cells": found.cells,
        "bodies": {"200x200": {"images": 16, "kilobytes": 5.1}},
        "open": found.open,
        "machine": {"processor": "Chip", "cores": 2, "device": "cpu"},
        "network": {"name": "resnet18"},
        "versions": {"torch": "2.15.0"},
    }


def test_the_readme_shows_rates_targets_and_what_was_not_measured(tmp_path: Path) -> None:
    (tmp_path / "serving.json").write_text(json.dumps(result()))
    text = serving_tables.serving(tmp_path)
    assert "| **Sightline, bf16** | bf16 | 100 / - / 430 |" in text
    assert "| in process | bf16 | 500 |" in text
    assert "Sightline, int8: not measured (precision is 'int8')." in text and "nothing, 200x200: - / - / 2,000." in text
    assert "| LitServe, our parts, 64 (bf16) | at least 1.25 times | 2 times | yes |" in text
    assert "serving.svg" not in text and "differ by 19 % of its median at most" in text


def test_the_chart_is_the_same_for_the_same_result(tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        chart.draw(result(), tmp_path / name)
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    assert "Sightline, bf16" in text and ">430<" in text and "int8" not in text
