"""The page of a run and its variants has the figures of a count by hand."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.run_folder import RunFolder
from tests.unit.tinted_store import TINY, tinted_store
from training import evaluate, scores
from training.configuration import compose
from training.predictions import Predictions
from training.prune import prune
from training.report import rates, speed, variants
from training.train import train

SPEED = {"images_per_second": {"fp32": {"1": 10.0}}, "threads": 1}
LAYERS = "network.layers=[{channels: 16, pool: max}, {channels: 32}]"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run `whole`, one pruned from it, and one that it taught."""
    root = tinted_store(tmp_path_factory.mktemp("variants"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        train(compose([*TINY, "name=whole", LAYERS, "trainer.epochs=2"]), lambda _: None)
        prune("whole", "narrow", 0.5, ["trainer.epochs=1"], lambda _: None)
        train(compose([*TINY, "name=small", "teacher=whole", "trainer.epochs=1"]), lambda _: None)
    return root


@pytest.fixture(autouse=True)
def _in_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    monkeypatch.setattr(variants, "TURNS", 2)


def answers(name: str) -> tuple[Any, Any]:
    predictions = Predictions.load(RunFolder.of(name).predictions)
    return predictions.probabilities, predictions.labels


def test_each_variant_is_compared_with_the_run_in_each_precision(capsys: pytest.CaptureFixture[str]) -> None:
    assert variants.main(["whole"]) == 0
    printed = capsys.readouterr().out
    document = json.loads(Path("runs/whole/variants.json").read_text())
    rows = {(row["run"], row["precision"]): row for row in document["rows"]}
    assert document["rows"][0]["run"] == "whole" and document["rows"][0]["precision"] == "fp32"
    assert {run for run, _ in rows} == {"whole", "narrow", "small"}
    assert {run for run, precision in rows if precision == "int8"} == {"whole", "narrow", "small"}
    (first, labels), (second, _) = answers("whole"), answers("narrow")
    right, narrow = first.argmax(axis=1) == labels, second.argmax(axis=1) == labels
    row = rows["narrow", "fp32"]
    assert (row["gains"], row["losses"]) == (int((narrow & ~right).sum()), int((right & ~narrow).sum()))
    assert row["top_1"] == scores.plain(scores.proportion(int(narrow.sum()), len(labels)))
    assert row["calibration_error"]["value"] == pytest.approx(scores.calibration_error(second.max(axis=1), narrow))
    assert row["bytes"] == RunFolder.of("narrow").model.stat().st_size < rows["whole", "fp32"]["bytes"]
    assert rows["whole", "int8"]["bytes"] == RunFolder.of("whole").int8_model.stat().st_size
    assert all(rate > 0 for row in rows.values() for rate in row["images_per_second"].values())
    assert row["kind"] == "50% of the channels pruned, distilled" and rows["small", "fp32"]["kind"] == "distilled"
    page = Path("runs/whole/variants.html").read_text()
    assert "data:image/svg+xml" in page and page.count("<tr>") == len(rows) + 1 and "http" not in page
    assert printed.splitlines()[-1] == "page: runs/whole/variants.html" and "narrow" in printed


def test_named_runs_join_and_int8_answers_are_those_of_the_int8_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*arguments: Any, **options: Any) -> Any:
        return np.roll(answers("small")[0], 1, axis=1)

    evaluate.run(RunFolder.of("small").path)
    monkeypatch.setattr(variants, "predict", wrong)
    assert variants.main(["small", "narrow", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["run"] for row in rows} == {"small", "narrow"}
    by_precision = {row["precision"]: row for row in rows if row["run"] == "small"}
    assert by_precision["int8"]["losses"] > 0 == by_precision["fp32"]["losses"]
    assert variants.remark({"run": "small", "rows": rows}) == ""
    alone = {"run": "small", "rows": list(by_precision.values())}
    assert variants.remark(alone).startswith("small has no variants: make prune NAME=small")


def test_a_variant_that_cannot_be_compared_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(variants, "_speeds", lambda names, console: dict.fromkeys(names, SPEED))
    for name, setting, value in (("homeless", "store: tinted", "store: gone"), ("other", "fold: 0", "fold: 1")):
        shutil.copytree("runs/small", f"runs/{name}")
        shutil.rmtree(f"runs/{name}/evaluation", ignore_errors=True)
        config = RunFolder.of(name).config
        assert setting in config.read_text()
        config.write_text(config.read_text().replace(setting, value))
    shutil.copytree("runs/small", "runs/early")
    training = RunFolder.of("early").training
    digest = json.loads(training.read_text())["teacher"]["sha256"]
    training.write_text(training.read_text().replace(digest, "0" * 64))
    assert variants.main(["whole"]) == 0
    printed, names = capsys.readouterr().err, ("homeless", "other", "early")
    lines = [next(line for line in printed.splitlines() if f"warning: {name} is left out" in line) for name in names]
    assert "data/processed/gone" in lines[0] and "different test images" in lines[1]
    assert "runs/whole/model.pt is another network now: train early again" in lines[2]
    document = json.loads(Path("runs/whole/variants.json").read_text())
    assert {row["run"] for row in document["rows"]} == {"whole", "narrow", "small"}
    assert variants.main(["whole", "homeless"]) == 1, "a run that is named is not left out"
    for name in names:
        shutil.rmtree(f"runs/{name}")


def test_the_picture_has_colours_for_any_number_of_networks() -> None:
    picture = io.BytesIO()
    top_1 = {"value": 90.0, "low": 80.0, "high": 95.0}
    rates.draw([rates.Point(f"net-{number}", "fp32", number, top_1) for number in range(11)], picture, "rate", "top-1")
    assert b"net-10" in picture.getvalue()


def test_a_missing_run_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert variants.main(["nobody"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: runs/nobody/config.yaml does not exist") and error.count("\n") == 1
