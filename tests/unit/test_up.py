"""What `make up` learns from and judges on, and what it says at its end of the network that it has trained."""

import json
import socket
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from handlers.run_folder import RunFolder
from pipeline import demo, steps, up
from serving.errors import ServingError
from serving.store.model_store import Archive
from tests.server.conftest import another_server
from tests.unit import class_folders
from training import configuration
from training.data import prepare
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset


@pytest.mark.parametrize("sides", [("train", "valid", "test"), ("train", "val"), ("Train", "Testing")])
def test_a_given_test_side_judges_and_does_nothing_else(
    sides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, side in enumerate(sides):
        class_folders.write(tmp_path / "raw" / side, 8)
        for number, path in enumerate((tmp_path / "raw" / side).rglob("*.jpg")):
            path.write_bytes(class_folders.jpeg(1000 * seed + number))
    settings: tuple[str, ...] = ("dataset=class_folders", "name=pets", "dataset.image_size=8", "processes=1")
    assert prepare.main([*settings, "raw=raw"]) == 0
    data = PreparedDataset.open("data/processed/pets")
    settings += up.defaults_for(data.document["counts"], ())
    dealt = data.split(SplitSpec.from_config(configuration.plain(configuration.compose(settings))["split"]))
    assert {data.record(row).path.split("/")[0] for row in dealt.test} == {sides[-1]}
    assert {data.record(row).path.split("/")[0] for row in np.concatenate([dealt.train, dealt.validation])} == {
        *sides[:-1]
    }
    assert len(dealt.test) == 24


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        ({"epochs": 8, "wanted_epochs": 18}, ", after 8 of 18 epochs: as many as the time allowed"),
        ({"epochs": 18, "wanted_epochs": 18}, ""),
        ({"epochs": 8}, ""),  # of an older run
    ],
)
def test_training_that_was_cut_short_is_told(tmp_path: Path, trained: dict[str, int], said: str) -> None:
    (tmp_path / "train.json").write_text(json.dumps(trained))
    found = up._worth(RunFolder(tmp_path), {"images": 1200, "top_1": {"value": 0.9583}})
    assert found == f"of 1,200 test images 95.8%{said}"


def test_a_link_to_itself_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["up", "loop", ""])
    assert up.main() == 1
    assert capsys.readouterr().err.startswith("error: loop is not a folder, a zip or a tar. Name one")


@pytest.mark.parametrize("text", ["abc", "", "0", "-1", "nan", "inf"])
def test_minutes_that_are_no_number_are_one_line(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["up", "raw", "pets", f"--minutes={text}"])
    assert up.main() == 1
    said = f"error: MINUTES is {text!r}: give minutes of training as a number above 0, such as 8\n"
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    ("minutes", "validation", "trains"), [(8, 100, 7), (8, 1100, 5.7), (60, 1100, 57.7), (3, 1100, 1.5), (8, 9000, 4)]
)
def test_the_second_stage_has_time_for_more_than_training(minutes: float, validation: int, trains: float) -> None:
    assert up.training_minutes(minutes, validation) == pytest.approx(trains)


@pytest.mark.parametrize(
    ("minutes", "typed", "epochs"),
    [(1, (), 12), (8, (), 12), (12, (), 18), (60, (), 24), (60, ("trainer.epochs=5",), 5)],
)
def test_more_minutes_are_used_for_more_epochs(minutes: float, typed: tuple[str, ...], epochs: int) -> None:
    data = ("dataset=class_folders", "name=pets", "raw=raw")
    config = configuration.compose(up.second_stage(data, "pets", minutes, typed, 100))
    assert (config.name, config.store, config.trainer.epochs) == ("pets/tuned", "pets", epochs)
    assert config.trainer.max_minutes == up.training_minutes(minutes, 100)


def test_only_the_second_stage_learns_from_a_teacher() -> None:
    data, typed = ("dataset=class_folders", "name=pets", "raw=raw"), ("teacher=1.10",)
    first, second = up.first_stage(data, typed), up.second_stage(data, "pets", 8, typed, 100)
    assert [configuration.compose(stage).teacher for stage in (first, second)] == [None, "1.10"]


def test_stages_are_set_in_one_place_and_checked_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class_folders.write(tmp_path / "raw", 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["up", "raw", "pets", "--stages=3"])
    assert up.main() == 1
    said = "error: STAGES is '3': give 1 for a linear head, or 2 to fine-tune it after that\n"
    assert capsys.readouterr() == ("", said)
    for override in ("transfer.stages=1", "++transfer.stages=1"):
        monkeypatch.setattr("sys.argv", ["up", "raw", "pets", override])
        assert up.main() == 1
        assert capsys.readouterr().err.startswith("error: transfer.stages is set by STAGES= here: STAGES=1 for ")
    assert not (tmp_path / "data").exists()


def network(path: Path, key: str) -> RunFolder:
    """Write the model and the key of a run."""
    path.mkdir(parents=True)
    run = RunFolder(path)
    run.model.write_bytes(key.encode())
    run.training.write_text(json.dumps({"key": key}))
    return run


def archive_of(model: bytes, folder: Path) -> Archive:
    """Write an archive that holds a model."""
    path = folder / f"{model.decode()}.mar"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("model.pt", model)
    return Archive("pets", "1.0", path)


def test_the_head_is_served_unless_a_network_fine_tuned_from_it_was(tmp_path: Path) -> None:
    first, tuned = network(tmp_path / "pets", "head"), network(tmp_path / "pets/tuned", "tuned")
    of_first, of_tuned, of_older = (archive_of(model, tmp_path) for model in (b"head", b"tuned", b"older"))

    def choose(keys: list[str], version: str | None) -> None:
        tuned.choice.write_text(json.dumps({"keys": keys, "version": version}))

    for live in (None, of_first, of_older):  # nothing was fine-tuned yet
        assert up.served_first(live, first, tuned) == (first, None)
    choose(["head", "tuned"], None)  # not deployed
    assert up.served_first(None, first, tuned) == (first, None)
    choose(["head", "tuned"], "2.0")
    assert up.served_first(None, first, tuned) == (tuned, None)
    assert up.served_first(of_tuned, first, tuned) == (tuned, None)
    assert up.served_first(of_first, first, tuned) == (first, None)
    assert up.served_first(of_older, first, tuned) == (first, of_older)
    choose(["head", "older"], "2.0")  # fine-tuned again, with other settings
    assert up.served_first(None, first, tuned) == (first, None)
    assert up.served_first(of_older, first, tuned) == (first, of_older)
    damaged: list[dict[str, Any]] = [{}, {"keys": None}, {"keys": []}, {"deploys": True}]
    for document in damaged:
        tuned.choice.write_text(json.dumps(document))
        assert up.served_first(of_older, first, tuned) == (first, None)
    choose(["other head", "tuned"], "2.0")
    for live in (None, of_tuned, of_older):
        assert up.served_first(live, first, tuned) == (first, None)


def test_the_fine_tuned_network_is_compared_with_the_one_that_is_live(tmp_path: Path) -> None:
    first, tuned = network(tmp_path / "pets", "head"), network(tmp_path / "pets/tuned", "tuned")
    of_first, of_older = (archive_of(model, tmp_path) for model in (b"head", b"older"))
    assert up.answers_of_live(of_older, first, tuned) == first.validation
    tuned.deployed.touch()
    assert up.answers_of_live(of_older, first, tuned) == tuned.deployed
    for live in (None, of_first):
        assert up.answers_of_live(live, first, tuned) == first.validation


def test_a_path_that_names_no_model_asks_for_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("My $Moths.zip").touch()
    monkeypatch.setattr("sys.argv", ["up", "My $Moths.zip", ""])
    assert up.main() == 1
    said = capsys.readouterr().err
    assert said.startswith("error: NAME= is missing, and My $Moths.zip does not give the model a name: 'My $Moths' ")
    assert said.endswith(". Add NAME=<name>\n")


@pytest.mark.parametrize(("verb", "arguments"), [(up, ["raw", "pets"]), (demo, [])])
def test_a_port_that_is_taken_is_named_before_anything_is_prepared(
    verb: ModuleType,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class_folders.write(tmp_path / "raw", 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["verb", *arguments])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "config.properties").write_text(f"inference_address=http://127.0.0.1:{port - 100}\n")
        monkeypatch.setenv("SIGHTLINE_PORT_OFFSET", "100")
        assert verb.main() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: port {port} is taken by ") and "SIGHTLINE_PORT_OFFSET=" in said
    assert not (tmp_path / "data").exists()


def test_ports_of_a_server_that_runs_here_are_not_looked_at(tmp_path: Path) -> None:
    with another_server(tmp_path):
        steps.check_ports(tmp_path)
    with pytest.raises(ServingError, match="does not exist: start in"):
        steps.check_ports(tmp_path)
