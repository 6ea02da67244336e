"""A recorded run is trained again to the same figures, or the output says which ones differ."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.run_folder import RunFolder
from tests.unit import stripes
from training import configuration, evaluate, rerun
from training.configuration import compose
from training.data import prepare
from training.train import train

REPOSITORY = Path(__file__).parents[2]
RUN = RunFolder.of("tiny")


@pytest.fixture(scope="module", autouse=True)
def _recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have a trained and evaluated run named tiny in the current directory."""
    root = tmp_path_factory.mktemp("rerun")
    stripes.draw(root / "raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert prepare.main([*stripes.SETTINGS, "raw=raw", "name=tiny", "processes=1"]) == 0
        train(compose([*stripes.SETTINGS, "name=tiny"]))
        evaluate.run(RUN.path)
        yield


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert rerun.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_the_folder_of_a_run_holds_all_that_repeats_it() -> None:
    record = json.loads(RUN.training.read_text())
    assert record["rerun"] == "python -m training.rerun tiny" and len(record["fingerprint"]) == 64
    head = subprocess.run(["git", "-C", REPOSITORY, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert record["commit"].rstrip("+") == head
    first, *packages = RUN.environment.read_text().splitlines()
    assert first == f"# Python {sys.version.split()[0]}"
    assert {f"torch=={record['versions']['torch']}", f"kornia=={record['versions']['kornia']}"} <= set(packages)
    assert RUN.config.is_file() and str(REPOSITORY) not in RUN.environment.read_text() + RUN.config.read_text()


def test_its_own_command_repeats_all_figures() -> None:
    command = json.loads(RUN.training.read_text())["rerun"].split()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    completed = subprocess.run([sys.executable, *command[1:]], env=environment, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.splitlines()[-1] == "runs/tiny-again: all figures are those of runs/tiny"
    first, second = RUN, RunFolder.of("tiny-again")
    assert first.epoch_metrics.read_bytes() == second.epoch_metrics.read_bytes()
    assert first.scores.read_bytes() == second.scores.read_bytes()
    assert len(rerun.figures(first)) == 4 * 6 + 6 + 7, "epochs, the best one, scores"


def test_a_figure_and_a_version_that_differ_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    changed = RunFolder.of("changed")
    shutil.copytree(RUN.path, changed.path)
    record = json.loads(changed.training.read_text())
    record["versions"]["kornia"] = "0.1"
    changed.training.write_text(json.dumps(record))
    table = changed.epoch_metrics.read_text().splitlines()
    changed.epoch_metrics.write_text("\n".join([*table[:-1], table[-1] + "1"]) + "\n")
    assert rerun.main(["changed"]) == 1
    output = capsys.readouterr()
    assert "warning: kornia was 0.1, and is " in output.out
    assert output.err.startswith("error: 1 figures differ from those of changed: validation_accuracy, epoch 4: ")


def test_a_time_limit_counts_by_its_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    limited = RunFolder.of("limited")
    train(compose([*stripes.SETTINGS, "name=limited", "store=tiny", "trainer.max_minutes=30"]))
    assert rerun.rerun("limited", "unlimited") == []
    trainer = configuration.load(Path("runs/unlimited")).trainer
    assert trainer.max_minutes is None and trainer.epochs == 4
    record = json.loads(limited.training.read_text())
    limited.training.write_text(json.dumps({**record, "epochs": 2.5}))
    assert "ended by its time limit, after 2.5 of 4 epochs" in refusal(capsys, "limited", "--name=cut")


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "runs/nothing/config.yaml does not exist" in refusal(capsys, "nothing")
    assert "is a finished run: remove it, or give another one with --name" in refusal(capsys, "tiny", "--name=tiny")
    assert "cannot name a model" in refusal(capsys, "tiny", "--name=a b")
    document = Path("data/processed/tiny/dataset.json")
    text = document.read_text()
    document.write_text(text.replace('"fingerprint": "', '"fingerprint": "0'))
    assert "is not the data that runs/tiny/model.pt was trained on" in refusal(capsys, "tiny", "--name=other")
    document.write_text(text)
