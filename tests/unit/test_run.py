"""The identity of a run: which settings and data train again, which files belong to it, and when it is finished."""

import json
from pathlib import Path
from typing import Any

import pytest

from handlers.spec import ARTIFACTS, INT8
from tests.unit.tinted_store import TINY, tinted_store
from training import run as module
from training.configuration import compose, plain
from training.data.store import PreparedDataset
from training.run import is_finished, prepare_folder, run_key, with_planned_epochs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return PreparedDataset.open(tinted_store(tmp_path_factory.mktemp("project"), images=4) / "data/processed/tinted")


def settings(*overrides: str) -> dict[str, Any]:
    return plain(compose([*TINY, *overrides]))


WRITTEN_FIRST = {"config.yaml", "environment.txt"}


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("document", "absent", "finished"),
    [
        ('{"key": "a"}', "", True),
        ('{"key": "a"}', "model.pt", False),
        ('{"key": "a"}', "export.json", False),
        ('{"key": "a"}', "train.json", False),
        ('{"key": "b"}', "", False),
        ("{}", "", False),
        ('{"key": "a"', "", False),
    ],
)
def test_a_run_is_finished_with_its_key_and_all_its_files(
    document: str, absent: str, finished: bool, tmp_path: Path
) -> None:
    for name, text in {"train.json": document, "model.pt": "", "export.json": "{}"}.items():
        if name != absent:
            (tmp_path / name).write_text(text)
    assert is_finished(tmp_path, "a") is finished


def test_only_settings_that_change_the_weights_change_the_key(
    data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = run_key(settings(), data)
    same = ("name=other", "store=other", "raw=elsewhere", "tracking=wandb", "dataset.max_pixels=1000")
    stored = ("dataset.store=encoded", "dataset.interpolation=bicubic")  # the second is in the store's key
    assert {run_key(settings(override), data) for override in (*same, *stored)} == {key}
    others = ("trainer.lr=0.5", "seed=7", "split.fold=1", "dataset.crop_fraction=0.5", "network.layers=[{channels: 9}]")
    keys = {run_key(settings(override), data) for override in others}
    smaller = tinted_store(tmp_path, images=3) / "data/processed/tinted"
    keys.add(run_key(settings(), PreparedDataset.open(smaller)))
    monkeypatch.setattr(module, "versions", lambda: {"torch": "3.0"})
    keys.add(run_key(settings(), data))
    assert len(keys - {key}) == len(others) + 2


def test_a_run_keeps_its_files_and_those_of_another_key_go(tmp_path: Path) -> None:
    run, said = tmp_path / "run", list[str]()
    prepare_folder(run, compose(TINY), "a", said.append)
    assert files(run) == {"checkpoints/key", *WRITTEN_FIRST} and not said
    results = {"metrics.csv", "curves.png", *ARTIFACTS.values(), INT8, "golden.json", "export.json", "train.json"}
    results |= {"checkpoints/last.ckpt", "checkpoints/best.ckpt", "checkpoints/epochs", "evaluation/predictions.csv"}
    (run / "evaluation").mkdir()
    for name in (*results, "notes.txt"):
        (run / name).write_text("")

    prepare_folder(run, compose(TINY), "a", said.append)
    kept = results - {"train.json"}  # the run is not finished while it trains
    assert files(run) == kept | {"checkpoints/key", *WRITTEN_FIRST, "notes.txt"}
    prepare_folder(run, compose([*TINY, "seed=7"]), "b", said.append)
    assert files(run) == {"checkpoints/key", *WRITTEN_FIRST, "notes.txt"}
    assert (run / "checkpoints/key").read_text() == "b" and "seed: 7" in (run / "config.yaml").read_text()
    assert [line.partition(": ")[2].partition(" ")[0] for line in said] == ["resuming", "configuration,"]


def test_planned_epochs_count_only_with_a_time_limit(tmp_path: Path) -> None:
    free, limited = settings(), settings("trainer.max_minutes=5")
    assert with_planned_epochs(limited, tmp_path) == limited
    (tmp_path / "checkpoints/epochs").parent.mkdir()
    (tmp_path / "checkpoints/epochs").write_text("11\n")
    assert with_planned_epochs(free, tmp_path) == free
    planned = with_planned_epochs(limited, tmp_path)
    assert planned == {**limited, "trainer": {**limited["trainer"], "epochs": 11}}
    assert json.dumps(limited) != json.dumps(planned)
