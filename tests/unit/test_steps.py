"""pipeline/steps.py: steps in order with their times, versions of archives, and what makes one out of date."""

import datetime as dt
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from rich.console import Console

from pipeline import showing, steps, up
from pipeline.steps import StepError, StepFailed, Steps
from serving import archive
from serving.client import Client
from serving.client.model_status import ModelStatus, Worker
from serving.store import model_config
from serving.store.live import Live, LiveModel
from serving.store.model_store import ArchiveError
from tests.unit.small_network import SmallNetwork, small_spec
from training.configuration import compose
from training.predictions import Predictions

build_archive = partial(steps.build_archive, rehearse=False)  # which tests of its own look at


@pytest.fixture
def run(tmp_path: Path) -> Steps:
    """Steps in a folder with a module that writes what it was given, and fails when told to."""
    (tmp_path / "noting.py").write_text(
        "import sys\n"
        "open('notes.txt', 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        "sys.exit(3 if 'fail' in sys.argv else 0)\n"
    )
    return Steps("title", root=tmp_path, record=tmp_path / "logs" / "steps.json", console=Console(file=io.StringIO()))


def test_steps_run_in_order_and_their_seconds_are_written(run: Steps) -> None:
    run.run("first", "one", "noting", "a b", "c=1")
    run.run("second", "two", "noting", "d")
    assert (run.root / "notes.txt").read_text() == "a b c=1\nd\n"
    document = json.loads(run.record.read_text())
    assert list(document["steps"]) == ["first", "second"]
    assert all(seconds > 0 for seconds in document["steps"].values())
    assert document["seconds"] >= sum(document["steps"].values()) - 0.01


def test_a_step_that_fails_ends_the_run_and_is_named(run: Steps) -> None:
    run.run("first", "one", "noting", "a")
    with pytest.raises(StepFailed, match=r"^second$"):
        run.run("second", "two", "noting", "fail")
    assert (run.root / "notes.txt").read_text() == "a\nfail\n"
    assert list(json.loads(run.record.read_text())["steps"]) == ["first", "second"]


def test_a_failed_step_has_said_why_and_other_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> None:
        raise error

    assert steps.guarded(lambda: None) == 0
    assert steps.guarded(lambda: fail(StepFailed("train"))) == 1
    assert capsys.readouterr().err == ""
    assert steps.guarded(lambda: fail(StepError("no folder. Name one"))) == 1
    assert capsys.readouterr().err == "error: no folder. Name one\n"
    assert steps.guarded(lambda: fail(KeyboardInterrupt())) == 130
    with pytest.raises(ZeroDivisionError):  # a mistake of ours is not told as one of theirs
        steps.guarded(lambda: 1 / 0)


@pytest.mark.parametrize(
    ("counts", "overrides", "expected"),
    [
        ({"train": {"a": 5, "b": 3}, "test": {}}, (), ("split.folds=5",)),
        ({"train": {"a": 500, "b": 400}, "test": {"b": 100}}, (), ("split.folds=10",)),
        ({"train": {"a": 1}, "test": {}}, ("trainer.epochs=2",), ("split.folds=2",)),
        ({"train": {"a": 8}, "test": {}}, ("split.folds=3", "trainer.epochs=2"), ()),
    ],
)
def test_what_is_not_said_fits_the_number_of_images(
    counts: dict[str, dict[str, int]], overrides: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert up.defaults_for(counts, overrides) == expected


def test_importing_the_steps_does_not_import_torch() -> None:
    code = "import sys, pipeline.demo, pipeline.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", ["/a b/c", "/it's/{here}", "/x=1,2/[y]", "/back\\slash", "/end\\", "/\\'", "/${home}"])
def test_any_path_reaches_the_configuration(path: str) -> None:
    assert compose([f"raw={path}"]).raw == path


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with a run of the name "small"."""
    from handlers.network import torchscript

    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    torchscript.save(SmallNetwork().eval(), small_spec(), folder / "model.pt")
    return tmp_path


def test_an_archive_is_built_once_for_the_same_weights(trained: Path) -> None:
    first, new = build_archive("small", trained)
    assert (first.version, new) == ("1.0", True)
    assert build_archive("small", trained) == (first, False)


def test_other_weights_become_the_next_version(trained: Path) -> None:
    from handlers.network import torchscript

    first, _ = build_archive("small", trained)
    before = first.path.read_bytes()
    torchscript.save(SmallNetwork().eval(), small_spec(size=24), trained / "runs" / "small" / "model.pt")
    second, new = build_archive("small", trained)
    assert (second.version, new) == ("2.0", True)
    assert first.path.read_bytes() == before


def test_what_somebody_made_live_stays_beside_a_newer_archive_of_the_same_run(trained: Path) -> None:
    first, _ = build_archive("small", trained)
    runs, store = trained / "runs", trained / "model_store"
    newer = archive.build("small", "2.0", runs=runs, store=store, overrides=["batchSize=3"], rehearse=False)
    assert build_archive("small", trained) == (newer, False)
    Live({"small": LiveModel("1.0")}).write(trained)
    assert build_archive("small", trained) == (first, False)


def test_an_archive_of_older_code_is_not_current(trained: Path) -> None:
    found, _ = build_archive("small", trained)
    older = found.path.with_name("older.mar")
    with zipfile.ZipFile(found.path) as source, zipfile.ZipFile(older, "w") as target:
        for member in source.infolist():
            text = source.read(member)
            target.writestr(member, text + b"\n" if member.filename == "handlers/images/decoding.py" else text)
    assert steps.is_current(found, trained / "runs" / "small")
    shutil.move(older, found.path)
    assert not steps.is_current(found, trained / "runs" / "small")


def test_an_archive_of_older_settings_is_not_current(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = build_archive("small", trained)
    monkeypatch.setitem(model_config.DEFAULTS, "batchSize", 3)
    assert not steps.is_current(found, trained / "runs" / "small")


def test_an_archive_of_other_golden_images_is_not_current(trained: Path) -> None:
    found, _ = build_archive("small", trained)
    (trained / "runs" / "small" / "golden.json").write_text("[]")
    assert not steps.is_current(found, trained / "runs" / "small")


def test_settings_that_somebody_asked_for_hold(trained: Path) -> None:
    asked = archive.build(
        "small",
        "1.1",
        runs=trained / "runs",
        store=trained / "model_store",
        overrides=["handler.top_k=2"],
        rehearse=False,
    )
    assert build_archive("small", trained) == (asked, False)
    (trained / "runs" / "small" / "model.pt").write_bytes((trained / "runs" / "small" / "model.pt").read_bytes() + b" ")
    newer, new = build_archive("small", trained)
    assert new and newer.version == "2.0"
    assert json.loads(newer.sidecar.read_text())["model_config"]["handler"]["top_k"] == 2


def test_settings_of_what_is_live_hold_and_not_those_of_a_trial(trained: Path) -> None:
    runs, store = trained / "runs", trained / "model_store"
    for version, setting in (("1.0", "handler.top_k=2"), ("2.0", "handler.top_k=1")):
        archive.build("small", version, runs=runs, store=store, overrides=[setting], rehearse=False)
    Live({"small": LiveModel("1.0")}).write(trained)
    (runs / "small" / "model.pt").write_bytes((runs / "small" / "model.pt").read_bytes() + b" ")
    newer, _ = build_archive("small", trained)
    assert newer.version == "3.0" and newer.model_config()["handler"]["top_k"] == 2


class Loading:
    """Describes a version that is live, whose worker loads until it has been looked at for a while."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def describe(self, name: str, version: str) -> ModelStatus:
        self.looks -= 1
        worker = Worker("9000", "READY" if self.looks < 0 else "UNLOADING", os.getpid(), 0, dt.datetime.now(dt.UTC))
        return ModelStatus(name, version, 1, 1, 0.0, 60.0, 0, (worker,), startup_timeout=30.0)


def test_workers_that_load_are_left_alone_as_long_as_they_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "READY_LIMIT", 0.0)
    monkeypatch.setattr(steps, "INTERVAL", 0.01)
    loading = Loading(5)
    client, lines = cast(Client, loading), list[str]()
    steps._wait(client, client.describe("a", "1.0"), 1, tmp_path, lines.append)
    assert loading.looks < 0 and lines == ["a 1.0 is live and not READY: waiting for it"]


def test_versions_are_counted_up_from_the_newest(tmp_path: Path) -> None:
    assert steps.next_version("x", tmp_path) == "1.0"
    for name in ("x-2.0.mar", "x-10.1.mar", "y-30.0.mar"):
        (tmp_path / name).touch()
    assert steps.next_version("x", tmp_path) == "11.0"


def test_a_run_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"model\.pt does not exist"):
        build_archive("none", tmp_path)


def test_the_images_shown_are_of_different_classes() -> None:
    labels = np.repeat(np.arange(12), 30)
    predictions = Predictions(
        probabilities=np.zeros((360, 12), dtype=np.float32),
        temperatures=np.ones(360),
        labels=labels,
        ids=np.array([str(n) for n in range(360)]),
        paths=np.array(["x"] * 360),
        offsets=np.zeros(360, dtype=np.int64),
        lengths=np.full(360, -1),
        raw=Path(),
    )
    rows = showing.pick(predictions, 8)
    assert len({int(labels[row]) for row in rows}) == 8
    assert len(set(showing.pick(predictions, 20))) == 20
    assert rows == showing.pick(predictions, 8)
