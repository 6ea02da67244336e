"""The average of the weights before and after fine-tuning: which is chosen, and what a run keeps of it."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from handlers.network import torchscript
from tests.unit.tinted_store import tinted_store
from training.configuration import compose
from training.train import train
from training.transfer import weight_average
from training.transfer.weight_average import PARTS, averaged, choose

CLASSES, IMAGES = 3, 300


def problem(best_part: float) -> tuple[nn.Linear, dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """Return a layer, its first and its tuned weights, and inputs, which the average at `best_part` answers right."""
    torch.manual_seed(0)
    first, right = torch.randn(CLASSES, 8), torch.randn(CLASSES, 8)
    tuned = first + (right - first) / best_part
    return nn.Linear(8, CLASSES, bias=False), {"weight": first}, {"weight": tuned}, torch.randn(IMAGES, 8)


@pytest.mark.parametrize("best_part", PARTS)
def test_the_average_with_the_lowest_log_loss_is_loaded(best_part: float) -> None:
    network, first, tuned, inputs = problem(best_part)
    network.load_state_dict(averaged(first, tuned, best_part))
    labels = network(inputs).argmax(dim=1)
    chosen = choose(network, first, {"last": tuned}, lambda: network(inputs).detach(), labels)
    assert (chosen.part, chosen.epoch) == (best_part, "last")
    assert torch.equal(network.weight, averaged(first, tuned, best_part)["weight"])
    assert len(chosen.log_losses) == 1 + len(PARTS) and min(chosen.log_losses.values()) < 0.1
    words = "those of the last epoch" if best_part == 1 else f"{best_part:.0%} of the way to those of the last epoch"
    assert chosen.says.startswith(f"weights: {words}; log-loss ") and chosen.accuracy == 1


def test_weights_that_fine_tuning_made_worse_are_those_before_it() -> None:
    network, first, tuned, inputs = problem(1.0)
    network.load_state_dict(first)
    labels = network(inputs).argmax(dim=1)
    epochs = {"last": tuned, "best": {"weight": tuned["weight"] + 1}}
    chosen = choose(network, first, epochs, lambda: network(inputs).detach(), labels)
    assert chosen.part == 0 and "those before fine-tuning" in chosen.says
    assert torch.equal(network.weight, first["weight"]) and len(chosen.log_losses) == 1 + 2 * len(PARTS)


def test_counters_are_not_averaged() -> None:
    first, tuned = ({"steps": torch.tensor(steps), "mean": torch.tensor(float(steps))} for steps in (0, 10))
    half = averaged(first, tuned, 0.5)
    assert (half["steps"].item(), half["mean"].item()) == (10, 5.0)


SETTINGS = (
    *("dataset=class_folders", "store=tinted", "network=efficientnet_lite0", "transfer.image_size=64"),
    *("trainer.device=cpu", "split.validation=0.45", "trainer.batch_size=8", "augmentation=[]"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinted_store(tmp_path_factory.mktemp("averaged"), images=45, image_size=64, interpolation="bicubic")


@pytest.mark.parametrize("ema", [0, 0.999])
def test_a_run_keeps_the_average_also_when_it_ends_before_its_export(
    root: Path, monkeypatch: pytest.MonkeyPatch, ema: float
) -> None:
    monkeypatch.chdir(root)
    config = compose([*SETTINGS, f"name=averaged-{ema}", "trainer.epochs=2", f"trainer.ema={ema}"])
    lines: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("training.export.export", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config, lines.append)
    kept = torch.load(root / f"runs/averaged-{ema}/checkpoints/best.ckpt", weights_only=True)
    assert kept["weight_average"]["says"] in lines
    with monkeypatch.context() as patch:
        patch.setattr(weight_average, "choose", lambda *_: pytest.fail("averaged twice"))
        run = train(config, lines.append)
    assert json.loads((run / "train.json").read_text())["weight_average"] == kept["weight_average"]
    first, last = (torch.load(run / f"checkpoints/{epoch}.ckpt", weights_only=True) for epoch in ("first", "last"))
    assert kept["weight_average"]["epoch"] in ("", "last") and kept["averaged_after"] == 2
    network = "average.module." if ema else "network."
    for name, value in kept["state_dict"].items():
        if name.startswith(network) and value.is_floating_point():
            before, after = first["state_dict"][name], last["state_dict"][name]
            torch.testing.assert_close(value, torch.lerp(before, after, kept["weight_average"]["part"]))
    exported = torchscript.load(run / "model.pt").module.state_dict()
    torch.testing.assert_close(exported["head.weight"], kept["state_dict"][f"{network}head.weight"])


def test_a_run_that_trains_on_after_its_average_is_averaged_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    config = compose([*SETTINGS, "name=longer", "trainer.epochs=1"])
    best = train(config) / "checkpoints/best.ckpt"
    torch.save({**torch.load(best, weights_only=True), "averaged_after": 0}, best)
    (best.parents[1] / "train.json").unlink()
    lines: list[str] = []
    train(config, lines.append)
    assert any(line.startswith("weights: ") for line in lines)


def test_few_validation_images_leave_the_best_epoch(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    run = train(compose([*SETTINGS, "name=few", "trainer.epochs=1", "split.validation=0.2"]))
    assert json.loads((run / "train.json").read_text())["weight_average"] is None
    assert "weight_average" not in torch.load(run / "checkpoints/best.ckpt", weights_only=True)


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
