"""What `benchmarks.real` serves to compare it is gone when that is done, whether it went well or not."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import real
from handlers import golden
from handlers.classifier import Classifier
from serving import archive
from serving.host import state
from serving.store.live import Live, LiveModel
from serving.store.model_store import ArchiveError
from tests.server.conftest import CLASSES, CONFIG, ROOT, another_server, export, free_offset, picture
from training.predictions import Predictions

RUNS = (Path("runs/digits"), Path("runs/cross/fold-0"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory to work in, with two evaluated runs, and an archive that somebody else built."""
    shutil.copy(CONFIG, tmp_path)
    images = [picture(seed) for seed in range(4)]
    (tmp_path / "raw").mkdir()
    names = [f"{number}.jpg" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        (tmp_path / "raw" / name).write_bytes(image)
    for run in RUNS:
        weights = export(tmp_path / run, CLASSES["digits"])
        probabilities = np.array(golden.answers(Classifier(weights), images), np.float32)
        (tmp_path / run / "evaluation").mkdir()
        Predictions(
            probabilities=probabilities,
            temperatures=np.ones(len(images)),
            labels=probabilities.argmax(axis=1),
            ids=np.array(names),
            paths=np.array(names),
            offsets=np.zeros(len(names), np.int64),
            lengths=np.full(len(names), -1),
            raw=tmp_path / "raw",
        ).save(tmp_path / run / "evaluation" / "predictions.npz")
    archive.build("digits", "3.0", runs=tmp_path / "runs", store=tmp_path / "model_store", rehearse=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SIGHTLINE_PORT_OFFSET", str(free_offset(32_000)))
    return tmp_path


def in_store(home: Path) -> set[str]:
    assert Live.read(home).models == {}
    return {path.name for path in (home / "model_store").iterdir()} - {"live.json"}


def test_compared_archives_leave_the_store(home: Path) -> None:
    found = real._serve(RUNS)
    assert (found["images"], found["agree"], found["refused"], found["top1"]) == (8, 8, 0, 1)
    assert all((home / run / "evaluation" / "served.json").is_file() for run in RUNS)
    assert in_store(home) == {"digits-3.0.mar", "digits-3.0.json"}
    assert state.running(home) is None


def test_a_server_that_runs_already_is_left_alone_and_what_is_live_in_it_too(home: Path) -> None:
    live = Live({"digits": LiveModel("3.0")})
    live.write(home)
    with another_server(home), pytest.raises(real.RunError, match=r"serving\.server failed"):
        real._serve(RUNS)
    assert Live.read(home) == live
    assert not list((home / "model_store").glob("cross*"))


def test_archives_that_are_never_served_leave_the_store(home: Path) -> None:
    (home / RUNS[1] / "model.pt").unlink()
    with pytest.raises(ArchiveError, match=r"fold-0/model\.pt does not exist"):
        real._serve(RUNS)
    assert in_store(home) == {"digits-3.0.mar", "digits-3.0.json"}
