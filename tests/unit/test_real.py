"""The runs on real data sets: each is one that can be configured, and has its row in the README."""

from pathlib import Path

import pytest

from benchmarks import real
from benchmarks.pages import training_tables
from training.configuration import compose
from training.crossvalidate import folds


@pytest.mark.parametrize("name", list(real.RUNS))
def test_each_run_can_be_configured(name: str) -> None:
    run = real.RUNS[name]
    overrides = [f"dataset={run.dataset}", f"store={run.dataset}", f"name={name}", *run.overrides]
    configs = folds(overrides) if run.folds else [compose(overrides)]
    assert len(configs) == (5 if run.folds else 1)
    assert {str(config.dataset.name) for config in configs} == {run.dataset}


def test_each_run_has_its_row() -> None:
    assert set(real.RUNS) == set(training_tables.TITLES)


def test_an_unknown_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        real.main([".", "mots"])
    assert "no run is called mots" in capsys.readouterr().err


def test_a_step_that_fails_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # The steps find their modules through the environment, as they do where it is started in the repository's root.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    assert real.main([str(tmp_path), "fingers"]) == 1
    error = capfd.readouterr().err
    assert (
        "fingers: the folder of raw images does not exist" in error
        and "error: fingers: training.data.prepare failed" in error
    )
    assert not list(tmp_path.rglob("*.json"))
