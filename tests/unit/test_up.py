"""What `make up` learns from and judges on, and what it says at its end of the network that it has trained."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import up
from tests.unit import class_folders
from training import configuration, prepare
from training.splits import SplitSpec
from training.store import PreparedDataset


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
    settings += up.defaults_for(tmp_path / "data" / "processed" / "pets", ())
    data = PreparedDataset.open("data/processed/pets")
    dealt = data.split(SplitSpec.from_config(configuration.plain(configuration.compose(settings))["split"]))
    assert {data.record(row).path.split("/")[0] for row in dealt.test} == {sides[-1]}
    assert {data.record(row).path.split("/")[0] for row in np.concatenate([dealt.train, dealt.validation])} == {
        *sides[:-1]
    }
    assert len(dealt.test) == 24


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        ({"epochs": 8, "wanted_epochs": 18}, ", after 8 of 18 epochs: what the time was enough for"),
        ({"epochs": 18, "wanted_epochs": 18}, ""),
        ({"epochs": 8}, ""),  # of an older run
    ],
)
def test_training_that_was_cut_short_is_told(tmp_path: Path, trained: dict[str, int], said: str) -> None:
    (tmp_path / "train.json").write_text(json.dumps(trained))
    found = up._worth(tmp_path, {"images": 1200, "top_1": {"value": 0.9583}})
    assert found == f"of 1,200 test images 95.8%{said}"


def test_a_link_to_itself_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["up", "loop", ""])
    assert up.main() == 1
    assert capsys.readouterr().err.startswith("error: loop is not a folder, a zip or a tar. Name one")
