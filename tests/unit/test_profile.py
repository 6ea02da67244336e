"""`make profile`: the parts of a training step and of an inference, in each form of a network."""

import json
import shutil
from pathlib import Path

import pytest

from tests.unit.tinted_store import TINY, tinted_store
from training.profile import main
from training.profiling import inference, training_step
from training.profiling.parts import Parts

SETTINGS = [setting for setting in TINY if not setting.startswith("network=")]
COMMAND = [*SETTINGS, "--name=profiled", "--networks", "small_cnn", "--steps=2"]


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tinted_store(tmp_path))
    monkeypatch.setattr(inference, "SECONDS", 0.01)


def test_a_profile_has_the_parts_of_each_form_and_traces_that_name_them() -> None:
    assert main([*COMMAND, "--no-compile"]) == 0
    folder = Path("runs/profiled")
    document = json.loads((folder / "profile.json").read_text())
    parts = ["loader", "augmentation", "forward", "backward", "optimizer"]
    assert [row["form"] for row in document["training"]][:2] == ["float32", "channels-last"]
    for row in document["training"]:
        assert list(row["milliseconds"]) == parts and row["steps"] == 2 and row["images_per_second"] > 0
        assert sum(row["milliseconds"].values()) == pytest.approx(8000 / row["images_per_second"], rel=0.5)
    assert {"float32", "as served, fp32", "as served, int8"} <= {row["form"] for row in document["inference"]}
    assert all(row["images_per_second"] > 0 for row in document["inference"])
    assert list(document["answers"][0]["milliseconds"]) == ["decoding", "preprocessing", "network"]
    for kind, names in (("float32", parts), ("inference", ["decoding", "network"])):
        events = json.loads((folder / f"small_cnn-{kind}.trace.json").read_text())["traceEvents"]
        assert set(names) <= {event["name"] for event in events}
    page = (folder / "profile.html").read_text()
    assert page.count("data:image/png") == 2 and "as served, fp32" in page


def test_a_form_that_fails_is_a_row_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(training_step, "measure", fail)
    assert main([*COMMAND, "--no-compile"]) == 0
    document = json.loads(Path("runs/profiled/profile.json").read_text())
    assert {row["error"] for row in document["training"]} == {"no compiler"}
    assert "small_cnn, float32: not measured: no compiler" in capsys.readouterr().out
    assert "no compiler" in Path("runs/profiled/profile.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--networks", "no_such"], "no_such"),
        (["--steps=0"], "--steps is 0: give at least 1"),
        (["store=nothing"], "data/processed/nothing"),
        (["--name=taken"], "runs/taken is a run: give the profile another --name"),
    ],
)
def test_what_cannot_be_profiled_is_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("runs/taken").mkdir(parents=True)
    Path("runs/taken/config.yaml").touch()
    assert main([*COMMAND, *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and len(error.splitlines()) == 1


def test_raw_images_that_are_gone_are_an_error_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("raw")
    assert main([*COMMAND, "--no-compile"]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("error: ") and "raw" in output.err and not output.out


def test_a_part_ends_when_the_device_is_done() -> None:
    waits: list[str] = []
    part = Parts(lambda: waits.append("wait"))
    for _ in range(3):
        with part("network"):
            waits.append("work")
    assert waits == ["wait", "work", "wait"] * 3 and list(part.milliseconds()) == ["network"]
    part.restart()
    assert not part.milliseconds()
