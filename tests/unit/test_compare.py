"""Runs are compared image by image, on the same test images only."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.run_folder import RunFolder
from training import evaluate, scores
from training.data.records import Record
from training.predictions import Predictions
from training.report import compare

CLASSES = ("cat", "dog")
# Ten images: the first run is right on seven, the second on nine; 1 is lost, 3 are gained.
FIRST = "1111111000"
SECOND = "1111110111"


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    for number in range(len(FIRST)):
        (tmp_path / f"raw/{number}.jpg").write_bytes(b"image %d" % number)


def evaluated(
    name: str,
    right: str,
    fingerprint: str = "f",
    order: Sequence[int] = range(10),
    classes: Sequence[str] = CLASSES,
    ids: str = "{}",
) -> RunFolder:
    """Write the evaluation of a run that is right on images with a 1; even numbers are cats, odd ones dogs."""
    files = RunFolder.of(name)
    files.evaluation.mkdir(parents=True)
    labels = np.array([classes.index(CLASSES[number % 2]) for number in order])
    answers = np.where([right[number] == "1" for number in order], labels, 1 - labels)
    probabilities = np.where(np.arange(2)[None, :] == answers[:, None], 0.8, 0.2).astype(np.float32)
    records = [Record(ids.format(number), "test", None, f"{number}.jpg") for number in order]
    predictions = Predictions.of(probabilities, 1.0, labels, records, Path("raw"))
    predictions.save(files.predictions)
    metrics = {"name": name, "key": "k", "fingerprint": fingerprint, "seconds": 1.0, "temperature": 1.0}
    files.metrics.write_text(json.dumps({**metrics, **evaluate.judge(predictions, classes, {})}))
    files.model.write_bytes(bytes(1234))
    training = {"network": f"net of {name}", "epochs": 3, "seconds": 20.0, "seconds_of_this_start": 61.4}
    files.training.write_text(json.dumps(training))
    return files


def compared(capsys: pytest.CaptureFixture[str], *names: str) -> dict[str, Any]:
    assert compare.main([*names, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_figures_are_those_of_a_hand_count(capsys: pytest.CaptureFixture[str]) -> None:
    evaluated("a", FIRST)
    evaluated("b", SECOND)
    document = compared(capsys, "a", "b")
    (pair,) = document["pairs"]
    assert (pair["first"], pair["second"], pair["images"], pair["losses"], pair["gains"]) == ("a", "b", 10, 1, 3)
    assert pair["p"] == pytest.approx(2 * (1 + 4) / 2**4)
    assert pair["difference"]["value"] == pytest.approx(0.2)
    assert pair["difference"]["low"] < 0 < 0.2 < pair["difference"]["high"] <= 1
    a, b = document["runs"]["a"], document["runs"]["b"]
    assert (a["top 1"]["value"], b["top 1"]["value"]) == (0.7, 0.9)
    assert a["top 1"] == scores.plain(scores.proportion(7, 10))
    assert (a["network"], a["bytes"], a["epochs"], a["training seconds"]) == ("net of a", 1234, 3, 61.4)


def test_tables_show_each_run_and_each_pair_with_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    for name, right in (("a", FIRST), ("b", SECOND), ("c", "1" * 10)):
        evaluated(name, right)
    assert compare.main(["a b c"]) == 0
    rows = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in capsys.readouterr().out.splitlines()]
    shown = {row[0]: row[1:] for row in rows}
    assert [cell.partition(" ")[0] for cell in shown["top 1"]] == ["0.7000", "0.9000", "1.0000"]
    assert shown["top 1 of corrupted images"] == ["-", "-", "-"] and shown["training seconds"] == ["61", "61", "61"]
    assert shown["b against a"][0].startswith("+20.00 (") and shown["b against a"][1:] == ["3", "1", "0.62"]
    assert shown["c against a"][0].startswith("+30.00 (") and shown["c against a"][1:] == ["3", "0", "0.25"]
    assert "c against b" not in shown


def test_images_are_paired_whatever_their_order_data_set_and_classes(capsys: pytest.CaptureFixture[str]) -> None:
    evaluated("a", FIRST)
    order = [*range(6), *range(7, 10), 6]  # by place, no image would be lost
    evaluated("shuffled", SECOND, order=order)
    evaluated("other", SECOND, fingerprint="g", order=order, classes=("dog", "cat"), ids="elsewhere/{}")
    for pair in compared(capsys, "a", "shuffled", "other")["pairs"]:
        assert (pair["losses"], pair["gains"]) == (1, 3)


@pytest.mark.parametrize("fingerprint", ["f", "g"])
def test_other_test_images_are_refused(fingerprint: str, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated("a", FIRST)
    evaluated("b", SECOND, fingerprint=fingerprint, order=range(2, 10))
    assert compare.main(["a", "b"]) == 1
    assert capsys.readouterr().err == (
        "error: a and b were evaluated on different test images (10 and 8, 8 the same): compare runs with the same "
        "images and the same split\n"
    )


def test_an_image_that_changed_or_is_gone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated("a", FIRST)
    evaluated("b", SECOND, fingerprint="g")
    files = RunFolder.of("b")
    moved = dataclasses.replace(Predictions.load(files.predictions), raw=tmp_path / "moved")
    moved.save(files.predictions)
    (tmp_path / "moved").mkdir()
    for number in range(10):
        (tmp_path / f"moved/{number}.jpg").write_bytes(b"image %d" % max(number, 1))
    assert compare.main(["a", "b"]) == 1
    assert "(10 and 10, 9 the same)" in capsys.readouterr().err
    (tmp_path / "moved/3.jpg").unlink()
    assert compare.main(["a", "b"]) == 1
    error = capsys.readouterr().err
    assert "moved/3.jpg cannot be read any more" in error and error.count("\n") == 1


def test_other_labels_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    evaluated("a", FIRST)
    files = evaluated("b", SECOND)
    predictions = Predictions.load(files.predictions)
    dataclasses.replace(predictions, labels=np.array([1, *predictions.labels[1:]])).save(files.predictions)
    assert compare.main(["a", "b"]) == 1
    assert capsys.readouterr().err == ("error: 0 is 'cat' in a and 'dog' in b: compare runs with the same labels\n")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], 'name two runs or more: make compare NAMES="a b"'),
        (["a a"], "name two runs or more"),
        (["a b"], "runs/b is not evaluated: make evaluate NAME=b"),
        (["a ../b"], "'../b' cannot name a model"),
        (["a --json"], "'--json' cannot name a model"),
    ],
)
def test_wrong_names_are_one_line(names: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated("a", FIRST)
    assert compare.main(names) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_an_evaluation_of_an_older_release_is_to_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("old", "older"):
        files = RunFolder.of(name)
        files.evaluation.mkdir(parents=True)
        files.predictions.touch()
        files.metrics.write_text(json.dumps({"key": "k", "fingerprint": "f", "per_class": {}}))
    assert compare.main(["old", "older"]) == 1
    message = "error: runs/old/evaluation/metrics.json is of an older release: make evaluate NAME=old\n"
    assert capsys.readouterr().err == message


def test_mcnemar_without_a_difference_is_1() -> None:
    assert scores.mcnemar(0, 0) == 1.0 and scores.mcnemar(3, 3) == 1.0
    assert scores.mcnemar(0, 5) == scores.mcnemar(5, 0) == pytest.approx(2 * 0.5**5)
