"""Channels are removed from a run's network, and the rest is fine-tuned into a run like any other."""

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.network import torchscript
from handlers.run_folder import RunFolder
from serving import archive
from tests.unit.tinted_store import TINY, tinted_store
from training import export
from training.configuration import ConfigurationError, compose, plain
from training.data.records import DatasetError
from training.narrowing import Shapes
from training.networks import Network, build
from training.prune import main, prune
from training.pruning import remove_channels
from training.train import train

WIDE = [item for item in TINY if "layers" not in item] + ["network.layers=[{channels: 16, pool: max}, {channels: 32}]"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run `whole` on tinted images."""
    root = tinted_store(tmp_path_factory.mktemp("pruning"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        train(compose([*WIDE, "name=whole"]), lambda _: None)
    return root


@pytest.fixture(autouse=True)
def _in_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def document(files: RunFolder) -> dict[str, Any]:
    return dict(json.loads(files.training.read_text()))


def test_a_pruned_run_is_smaller_and_is_exported_and_archived_as_any_run() -> None:
    lines: list[str] = []
    files = RunFolder(prune("whole", "smaller", 0.5, ["trainer.epochs=4"], lines.append))
    whole, pruned = document(RunFolder.of("whole")), document(files)
    assert pruned["parameters"] < whole["parameters"] / 3 and pruned["best"]["validation_accuracy"] >= 0.8
    assert (pruned["pruning"]["run"], pruned["pruning"]["channels"]) == ("whole", 0.5)
    assert pruned["teacher"]["run"] == "whole"
    shapes = [list(weight.shape) for weight in torchscript.load(files.model).module.parameters() if weight.ndim > 1]
    assert shapes == [[8, 3, 3, 3], [16, 8, 3, 3], [3, 16]]
    assert any("parameters of whole are left" in line for line in lines)
    assert export.main(["name=smaller"]) == 0  # from its checkpoint and its configuration
    lines.clear()
    prune("whole", "smaller", 0.5, ["trainer.epochs=4"], lines.append)
    assert lines[-1] == "runs/smaller is up to date"
    Path("model_store").mkdir()
    assert archive.build("smaller", "1.0", run=files.path, rehearse=False).path.is_file()


def test_an_interrupted_fine_tuning_resumes() -> None:
    settings = ["trainer.epochs=3", "teacher=null"]
    unbroken = RunFolder(prune("whole", "unbroken", 0.5, settings, lambda _: None))

    def interrupt(line: str) -> None:
        if line.startswith("epoch   2/3"):
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        prune("whole", "broken", 0.5, settings, interrupt)
    lines: list[str] = []
    broken = RunFolder(prune("whole", "broken", 0.5, settings, lines.append))
    assert any("resuming" in line for line in lines)
    assert broken.epoch_metrics.read_bytes() == unbroken.epoch_metrics.read_bytes()
    assert document(broken)["teacher"] is None


@pytest.mark.parametrize("name", ["resnet18d_half", "efficientnet_lite0", "small_cnn"])
def test_networks_of_convolutions_are_rebuilt_from_their_shapes(name: str) -> None:
    node = {key: value for key, value in plain(compose([f"network={name}"]))["network"].items() if key != "pretrained"}

    def rebuild(shapes: Shapes) -> Network:
        return build({**node, "shapes": shapes}, 5, 3, 64)

    network = rebuild({}).eval()
    before = sum(weight.numel() for weight in network.parameters())
    shapes = remove_channels(network, rebuild, (3, 64, 64), 0.5)
    assert sum(weight.numel() for weight in network.parameters()) < before / 3
    assert network.features(torch.zeros(1, 3, 64, 64)).shape[1] == shapes["head"][1]
    again = remove_channels(network, rebuild, (3, 64, 64), 0.25)
    assert again["head"][1] < shapes["head"][1] and again["head"][0] == 5


@pytest.mark.parametrize(("width", "shapes"), [(8, [4, 8]), (24, [8, 16])])
def test_widths_are_multiples_of_8_unless_a_layer_is_too_narrow(width: int, shapes: list[int]) -> None:
    layers = [{"channels": width, "pool": "max"}, {"channels": 2 * width if width == 8 else 40}]

    def rebuild(shapes: Shapes) -> Network:
        return build({"kind": "cnn", "layers": layers, "shapes": shapes}, 3, 3, 16)

    widths = remove_channels(rebuild({}).eval(), rebuild, (3, 16, 16), 0.5)
    assert [shape[0] for shape in widths.values() if len(shape) == 4] == shapes


def test_a_network_that_depends_on_more_than_its_layers_is_refused() -> None:
    node = plain(compose(["network=vit", "network.patch_size=8", "network.embed_dim=24", "network.depth=1"]))["network"]

    def rebuild(shapes: Shapes) -> Network:
        return build({**node, "shapes": shapes}, 5, 3, 16)

    with pytest.raises(ConfigurationError, match=r"this network cannot be pruned .* choose one of convolutions"):
        remove_channels(rebuild({}).eval(), rebuild, (3, 16, 16), 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "runs/nobody/config.yaml does not exist"),
        (["whole", "--channels=1.5"], "--channels is 1.5: give the part to remove"),
        (["whole", "--name=whole"], "--name whole is the run itself"),
        (["whole", "--name=../x"], "cannot name"),
        (["whole", "dataset=petals"], "'dataset=petals' is no setting of pruning"),
        (["whole", "trainer.epoch=3"], "there is no setting 'trainer.epoch'; near it: trainer.epochs"),
        (["whole", "trainer.epochs=0"], "trainer.epochs is 0"),
        (["whole", "trainer.optimizer=adam"], "trainer.optimizer is 'adam': write sgd or adamw"),
        (["whole", "trainer.schedule=linear"], "trainer.schedule is 'linear': write onecycle, cosine or constant"),
        (["whole", "trainer=fast"], "'trainer=fast' replaces all of trainer: set one of its values"),
        (["whole", "teacher=1.10"], "runs/1.10/config.yaml does not exist"),
        (["whole", "teacher=nobody"], "runs/nobody/config.yaml does not exist"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not Path("runs/whole-pruned/pruned.pt").exists(), "nothing is written"


def test_a_run_of_data_that_changed_or_without_its_checkpoint_is_not_pruned() -> None:
    shutil.copytree("runs/whole", "runs/stale")
    files = RunFolder.of("stale")
    files.best_checkpoint.unlink()
    with pytest.raises(ConfigurationError, match=r"best\.ckpt does not exist: .*make train NAME=stale"):
        prune("stale", "narrow", 0.5)
    spec = torchscript.load(files.model).spec
    with zipfile.ZipFile(files.model, "w") as file:
        other = dataclasses.replace(spec, provenance={**spec.provenance, "fingerprint": "other"})
        file.writestr("model/extra/spec.json", other.to_json())
    with pytest.raises(DatasetError, match=r"is not the data that runs/stale/model\.pt was trained on"):
        prune("stale", "narrow", 0.5, ["teacher=null"])
    assert not Path("runs/narrow").exists()
