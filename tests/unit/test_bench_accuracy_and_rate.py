"""The picture of top-1 against requests/s: its figures, and the same bytes from the same rows."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import accuracy_and_rate, bench_runs
from benchmarks.pages import serving_tables
from benchmarks.real import RUNS
from training.configuration import compose, plain

TOP_1 = {"value": 0.93, "low": 0.92, "high": 0.94}
INT8 = {"top1_lost": {"value": 0.01, "low": 0.0, "high": 0.02}}


def document(**changes: Any) -> dict[str, Any]:
    return {"top_1": TOP_1, "int8": INT8, "image_size": 160, "parameters": 3_000_000, **changes}


def test_int8_has_the_top_1_that_it_was_measured_with() -> None:
    assert accuracy_and_rate.accuracy(document(), "bf16") == pytest.approx({"value": 93, "low": 92, "high": 94})
    assert accuracy_and_rate.accuracy(document(), "int8") == pytest.approx({"value": 92, "low": 91, "high": 93})
    assert accuracy_and_rate.accuracy(document(int8=None), "int8") is None


def test_each_network_is_measured_at_its_own_size_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[str, int, str]] = []
    monkeypatch.setattr(bench_runs, "run", lambda network, root, size: (network, size))
    monkeypatch.setattr(accuracy_and_rate, "gains_from_bf16", lambda device: True)

    def rate(run: tuple[str, int], precision: str, seconds: float) -> float:
        turns.append((*run, precision))
        return 100.0 + len(turns)

    monkeypatch.setattr(accuracy_and_rate, "rate", rate)
    first, second = list(accuracy_and_rate.NETWORKS)[:2]
    rows = accuracy_and_rate.measure({first: document(), second: document(image_size=240, int8=None)}, 3, 1.0)
    lite0, lite1 = (accuracy_and_rate.NETWORKS[title][1] for title in (first, second))
    of_round = [(lite0, 160, precision) for precision in ("fp32", "bf16", "int8")]
    assert turns == 3 * [*of_round, (lite1, 240, "fp32"), (lite1, 240, "bf16")]
    assert (rows[0]["requests_per_second"], rows[0]["range"]) == (106.0, [101.0, 111.0])

    pictures = [tmp_path / "1.svg", tmp_path / "2.svg"]
    for path in pictures:
        accuracy_and_rate.draw(rows, path)
    text = pictures[0].read_text()
    assert text == pictures[1].read_text() and first in text and "int8" in text
    figures = {"rows": rows, "connections": 16, "number_of_rounds": 3, "missing": ["a network"]}
    table = serving_tables.accuracy_and_rate.__wrapped__(figures)  # type: ignore[attr-defined]
    assert f"| {first} | int8 | 160 x 160 | 3.00 M | 92.00 % (91.0 to 93.0) | 108 (103 to 113) |" in table
    assert "Not measured: a network." in table


def test_every_network_of_the_picture_has_a_run_and_a_recipe_for_its_speed() -> None:
    for run, network in accuracy_and_rate.NETWORKS.values():
        of_run = plain(compose([f"dataset={RUNS[run].dataset}", *RUNS[run].overrides]).network)
        expected = plain(compose([f"network={network}"]).network)
        # How many layers training leaves is no matter to an answer's speed.
        assert {**of_run, "frozen_layers": None} == {**expected, "frozen_layers": None}
        assert compose(["dataset=places365", *bench_runs.NETWORKS[network]]).network.kind == of_run["kind"]
