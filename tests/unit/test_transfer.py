"""Transfer from pretrained weights: the head of the first stage, fine-tuning from it, and the cache of features."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from handlers.network import torchscript
from handlers.spec import PreprocessSpec
from tests.unit.tinted_store import CLASSES, tinted_store
from training import export
from training.checkpoints import Checkpoints
from training.configuration import ConfigurationError, compose, plain
from training.data.progress import plain_console
from training.data.store import PreparedDataset
from training.module import Classification
from training.networks import build
from training.optimizers import make_optimizer
from training.prune import prune
from training.run import run_key
from training.temperature import fit_temperature
from training.train import train
from training.transfer import features as cached
from training.transfer import head, padding, pretrained, stages
from training.transfer.learning_curve import _extrapolated, learning_curve
from training.transfer.pretrained import PACKAGES, PretrainedError

LITE = "network=efficientnet_lite0"
TRANSFER = ("dataset=class_folders", "store=tinted", LITE, "transfer.image_size=64", "trainer.device=cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinted_store(tmp_path_factory.mktemp("project"), image_size=64, interpolation="bicubic")


@pytest.fixture(autouse=True)
def _in_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def trained(name: str, *overrides: str) -> tuple[Path, list[str]]:
    lines: list[str] = []
    return train(compose([*TRANSFER, f"name={name}", *overrides]), lines.append), lines


def test_the_input_follows_the_weights_unless_it_is_typed() -> None:
    config = plain(compose(["dataset=moths", LITE]))
    assert (config["dataset"]["image_size"], config["dataset"]["interpolation"]) == (224, "bicubic")
    assert config["trainer"]["layer_decay"] == config["transfer"]["trainer"]["layer_decay"]
    assert plain(compose(["dataset=moths", "network=efficientnet_lite2"]))["dataset"]["image_size"] == 260
    typed = plain(compose(["dataset=moths", LITE, "dataset.image_size=96", "trainer.lr=0.5"]))
    assert (typed["dataset"]["image_size"], typed["trainer"]["lr"]) == (96, 0.5)
    scratch = plain(compose(["dataset=moths", "network=resnet18d_half"]))
    assert (scratch["dataset"]["image_size"], scratch["dataset"]["interpolation"]) == (160, "bilinear")


def test_the_first_stage_is_a_network_that_is_served_as_any_other() -> None:
    run, _ = trained("first", "transfer.stages=1")
    document = json.loads((run / "train.json").read_text())
    assert document["epochs"] == document["planned_epochs"] == document["wanted_epochs"] == 0
    assert document["best"]["epoch"] == 0 and document["best"]["validation_accuracy"] >= 0.8
    assert not (run / "model.int8.pt").exists()
    assert export.main(["name=first"]) == 0 and (run / "model.int8.pt").exists()
    spec = torchscript.load(run / "model.pt").spec
    package = PACKAGES["tf_efficientnet_lite0"]
    assert spec.preprocess.mean == package.input.mean and spec.preprocess.interpolation == "bicubic"
    assert spec.provenance["weights"] == {
        "name": "tf_efficientnet_lite0",
        "source": f"{package.name} {package.version}",
        "licence": "Apache-2.0",
        "sha256": package.sha256,
    }


def test_fine_tuning_starts_from_the_head_and_resumes_with_it() -> None:
    run, lines = trained("second", "trainer.epochs=2", "trainer.batch_size=8", "augmentation=[]", "trainer.mix.p=0")
    document = json.loads((run / "train.json").read_text())
    assert document["epochs"] == 2 and document["best"]["validation_accuracy"] >= 0.8
    assert any("linear head" in line for line in lines)
    first = (run / "metrics.csv").read_text().splitlines()[1].split(",")
    assert float(first[3]) >= 0.7  # training accuracy of the first epoch; a random head would begin at a third


def test_a_stage_that_does_not_exist_and_weights_that_do_not_exist_are_errors() -> None:
    with pytest.raises(ConfigurationError, match=r"transfer\.stages is 3: write 0, 1 or 2"):
        trained("third", "transfer.stages=3")
    with pytest.raises(ConfigurationError, match=r"nowhere\.pth does not exist"):
        trained("nowhere", "network.pretrained=nowhere.pth")
    with pytest.raises(ConfigurationError, match="has no pretrained weights"):
        compose(["dataset=moths", "network=timm", "network.model=no_such_model", "network.pretrained=true"])


def test_a_missing_and_a_damaged_package_say_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = PACKAGES["tf_efficientnet_lite0"]
    whole = package.path()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        PretrainedError, match=r"not installed: rm .*stamp; make setup, or set network\.pretrained=false"
    ):
        package.path()
    (tmp_path / package.file).parent.mkdir()
    (tmp_path / package.file).write_bytes(whole.read_bytes()[:-1])
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(
        PretrainedError, match=r"lite0-57934424\.pth is damaged: remove the package .* and rm .*; make setup"
    ):
        package.path()


def test_a_local_file_of_weights_is_read_and_its_digest_recorded(tmp_path: Path) -> None:
    copy = tmp_path / "copy.pth"
    copy.write_bytes(PACKAGES["tf_efficientnet_lite0"].path().read_bytes())
    node = plain(compose([*TRANSFER, f"network.pretrained={copy}"]))["network"]
    network = build(node, 3, 3, 64)
    origin = pretrained.origin(node, lambda: network)
    assert (origin.source, origin.licence, origin.sha256) == ("copy.pth", "unknown", pretrained.sha256(copy))
    packaged = build({**node, "pretrained": True}, 3, 3, 64)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(network.eval().embedding(images), packaged.eval().embedding(images))
    copy.write_bytes(copy.read_bytes()[:100_000])
    with pytest.raises(ConfigurationError, match="holds no weights that torch can read"):
        build(node, 3, 3, 64)


@pytest.mark.parametrize("model", ["tf_efficientnet_lite0", "tf_efficientnet_lite1"])
@pytest.mark.parametrize("side", [64, 70])
def test_equal_padding_gives_the_same_features(model: str, side: int) -> None:
    import timm

    body = timm.create_model(model, num_classes=0).eval()
    images = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        before = body(images)
        padding.with_equal_padding(body, (3, side, side))
        after = body(images)
    assert not any(type(module).__name__ == "Conv2dSame" for module in body.modules())
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_features_are_computed_once_for_an_image_wherever_its_row_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = PreparedDataset.open("data/processed/tinted")
    node = plain(compose(TRANSFER))["network"]
    network, spec = build(node, 3, 3, 64), data.preprocess((0.5,) * 3, (0.5,) * 3)
    monkeypatch.setattr(cached, "COMMIT", 1)  # more than one transaction
    rows = np.arange(20)
    first = cached.features(network, {"sha256": "abc"}, data, rows, spec, plain_console(), folder=tmp_path)
    computed: list[int] = []
    plain_computation = cached._computed

    def counted(*arguments: object) -> object:
        computed.append(len(arguments[3]))  # type: ignore[arg-type]
        return plain_computation(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cached, "_computed", counted)
    again = cached.features(network, {"sha256": "abc"}, data, rows[::-1], spec, plain_console(), folder=tmp_path)
    assert not computed and np.array_equal(again[::-1], first)
    cached.features(network, {"sha256": "abc"}, data, np.arange(25), spec, plain_console(), folder=tmp_path)
    assert computed == [5]
    with torch.inference_mode():
        pixels = torch.from_numpy(data.images[rows])
        exact = network.eval().embedding((pixels.float() / 255 - 0.5) / 0.5).numpy()
    np.testing.assert_allclose(first, exact, atol=5e-3, rtol=2e-3)


def test_features_of_other_pixels_are_computed_again(tmp_path: Path) -> None:
    network = build(plain(compose(TRANSFER))["network"], 3, 3, 64)
    data = PreparedDataset.open("data/processed/tinted")
    tinted_store(tmp_path, image_size=64, interpolation="bilinear")
    other_filter = PreparedDataset.open(tmp_path / "data/processed/tinted")

    def values(data: PreparedDataset, mean: float, std: float) -> np.ndarray:
        spec = data.preprocess((mean,) * 3, (std,) * 3)
        return cached.features(network, {}, data, np.arange(3), spec, plain_console(), folder=tmp_path)

    first = values(data, 0.5, 0.5)
    assert np.array_equal(values(data, 0.5, 0.5), first)
    for other in (values(data, 0.4, 0.5), values(data, 0.5, 0.4), values(other_filter, 0.5, 0.5)):
        assert not np.array_equal(other, first)


def test_the_key_of_features_changes_with_the_weights_and_with_what_changes_features() -> None:
    def key(*overrides: str, sha256: str = "abc") -> dict[str, Any]:
        return stages.feature_key(plain(compose([*TRANSFER, *overrides])), {"sha256": sha256})

    assert key() == key("network.dropout=0.5", "network.frozen_layers=5")
    assert key() != key(sha256="abd")
    assert key() != key("network=efficientnet_lite1")


def test_weights_of_a_hub_are_identified_by_those_below_the_head() -> None:
    torch.manual_seed(0)
    network: Any = build({"kind": "resnet18"}, 3, 3, 64)
    node = {"kind": "resnet18", "pretrained": True}
    origin = pretrained.origin(node, lambda: network)
    assert (origin.name, origin.source, origin.licence) == ("resnet18", "hub of torchvision", "BSD-3-Clause")
    network.head = torch.nn.Linear(512, 5)
    assert pretrained.origin(node, lambda: network) == origin
    with torch.no_grad():
        network.body.conv1.weight[0, 0, 0, 0] += 1
    assert pretrained.origin(node, lambda: network).sha256 != origin.sha256


def test_a_dilated_convolution_keeps_its_padding_and_training_goes_on() -> None:
    from timm.layers.conv2d_same import Conv2dSame

    body = torch.nn.Sequential(Conv2dSame(3, 4, 3, stride=2, dilation=2))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = body(images)
        padding.with_equal_padding(body, (3, 64, 64))
        assert torch.equal(body(images), before)
    assert body.training


def clouds(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, images)
    return (random.normal(size=(images, 16)) + 2 * np.eye(3, 16)[labels]).astype(np.float32), labels


def shifted(images: int, seed: int, shift: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Return features that a number of each image shifts, all alike, as the brightness of a photograph might."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 5, images)
    noise = random.normal(size=(images, 40)) + shift * random.normal(size=(images, 1))
    return (noise + 1.2 * np.eye(5, 40)[labels]).astype(np.float32), labels


def test_a_head_is_regularised_as_validation_wants_it() -> None:
    strengths = [head.fit(*shifted(200, 0, shift), 5, shifted(1500, 1, shift)).strength for shift in (0.0, 3.0, 8.0)]
    assert strengths[0] > strengths[1] > strengths[2]
    fitted, test = head.fit(*clouds(30, 0), 3, clouds(300, 1)), clouds(3000, 2)
    assert float((fitted.logits(test[0]).argmax(dim=1).numpy() == test[1]).mean()) > 0.75
    assert head.fit(*clouds(30, 0), 3, None).strength == 3e-3


def test_a_regularisation_is_judged_with_the_temperature_that_the_head_is_served_with() -> None:
    train, validation = shifted(3000, 0), shifted(1500, 1)
    targets = torch.from_numpy(validation[1])
    scaled_losses, unscaled_losses = [], []
    for strength in head.STRENGTHS:
        logits = head.fit(*train, 5, None, strengths=(strength,)).logits(validation[0])
        temperature = fit_temperature(logits, targets).value
        scaled_losses.append(float(cross_entropy(logits / temperature, targets)))
        unscaled_losses.append(float(cross_entropy(logits, targets)))
    scaled, unscaled = (head.STRENGTHS[np.argmin(losses)] for losses in (scaled_losses, unscaled_losses))
    assert scaled > unscaled
    assert head.fit(*train, 5, validation).strength == scaled


def test_a_head_is_fitted_to_all_images_though_its_strength_is_chosen_on_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "SEARCHED", 60)
    fitted = head.fit(*clouds(3000, 0), 3, clouds(300, 1))
    whole = head.fit(*clouds(3000, 0), 3, None, strengths=(fitted.strength,))
    torch.testing.assert_close(fitted.weight, whole.weight, atol=0.01, rtol=0.01)


def test_a_long_fit_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    head.fit(*clouds(30, 0), 3, clouds(300, 1), say=lines.append)
    assert not lines
    monkeypatch.setattr("training.transfer.head.SECONDS_BETWEEN_LINES", 0.0)
    head.fit(*clouds(30, 0), 3, clouds(300, 1), say=lines.append)
    assert lines[0] == "linear head: step 1 of about 60, 30 images, regularisation 0.1"
    assert any("regularisation 0.03" in line for line in lines)


def test_a_head_of_the_same_images_and_settings_is_fitted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation = clouds(300, 0), clouds(60, 1)
    fit = Mock(wraps=head.fit)
    monkeypatch.setattr(head, "fit", fit)
    first, again = (head.fit_once(tmp_path, *train, 3, validation) for _ in range(2))
    assert torch.equal(first.weight, again.weight) and torch.equal(first.bias, again.bias)
    assert (first.strength, fit.call_count) == (again.strength, 1)
    head.fit_once(tmp_path, *train, 3, validation, balanced=True)
    head.fit_once(tmp_path, *train, 3, clouds(60, 2))
    other = train[1].copy()
    other[0] = (other[0] + 1) % 3
    head.fit_once(tmp_path, train[0], other, 3, validation)
    assert fit.call_count == 4
    for path in tmp_path.glob("*.head.pt"):
        path.write_bytes(b"")
    assert torch.equal(head.fit_once(tmp_path, *train, 3, validation).weight, first.weight)


def test_a_head_does_not_lean_on_a_feature_that_hardly_varies() -> None:
    values, labels = clouds(300, 0)
    values[:, 0] = 1e-4 * (labels == 0)  # it separates a class, until fine-tuning moves it
    fitted = head.fit(values, labels, 3, None)
    assert fitted.weight[:, 0].abs().max() < fitted.weight.abs().max() / 10


def test_a_balanced_head_gives_a_rare_class_its_part() -> None:
    values, labels = clouds(3000, 0)
    kept = (labels > 0) | (np.arange(len(labels)) % 50 == 0)
    test, truth = clouds(3000, 3)
    recalls = []
    for balanced in (False, True):
        fitted = head.fit(values[kept], labels[kept], 3, None, balanced=balanced)
        recalls.append(float((fitted.logits(test).argmax(dim=1).numpy() == 0)[truth == 0].mean()))
    assert recalls[1] > recalls[0] + 0.1
    weights = head.balanced_weights(np.array([0, 0, 0, 2]), 4)
    assert weights.tolist() == [pytest.approx(2 / 3), 0.0, 2.0, 0.0]


def test_layers_near_the_input_learn_at_lower_rates() -> None:
    config = plain(compose([*TRANSFER]))
    network: Any = build(config["network"], 3, 3, 64)
    trainer = {**config["trainer"], "lr": 1.0, "layer_decay": 0.5}
    optimizer = make_optimizer(network, trainer)
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    assert rates[id(network.head.weight)] == rates[id(network.head.bias)] == 1.0
    assert rates[id(network.body.conv_head.weight)] == pytest.approx(0.25)
    blocks = [rates[id(block[0].conv_dw.weight)] for block in network.body.blocks]
    assert blocks == sorted(blocks) and blocks[-1] == 2 * blocks[-2]
    assert rates[id(network.body.conv_stem.weight)] == min(rates.values())


def test_the_first_layers_stay_as_they_are() -> None:
    config = plain(compose([*TRANSFER, "network.frozen_layers=5", "trainer.freeze_norms=true"]))
    module = Classification(config, CLASSES, PreprocessSpec(image_size=64))
    learning = {name for name, weight in module.network.named_parameters() if weight.requires_grad}
    assert not any(name.startswith(("body.conv_stem", "body.bn1", "body.blocks.2")) for name in learning)
    assert "body.blocks.3.0.conv_dw.weight" in learning and "head.weight" in learning
    optimizer = make_optimizer(module.network, config["trainer"])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(learning)
    module.train()
    module.on_train_epoch_start()
    norms = [layer for layer in module.network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert norms and not any(layer.training for layer in norms)


def test_the_curve_expects_more_of_more_images_and_says_how_sure_it_is() -> None:
    random = np.random.default_rng(0)

    def hard(images: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(0, 3, images)
        return (random.normal(size=(images, 64)) + 1.2 * np.eye(3, 64)[labels]).astype(np.float32), labels

    curve = learning_curve(*hard(120), 3, hard(400), strength=1e-2)
    assert curve is not None and curve.images == (10.0, 20.0, 40.0)
    assert curve.accuracy[0] < curve.accuracy[1] < curve.accuracy[2] < curve.expected
    assert curve.low < curve.expected < curve.high
    fitted = head.fit(*hard(240), 3, None, strengths=(1e-2,))
    images, labels = hard(4000)
    assert abs(float((fitted.logits(images).argmax(dim=1).numpy() == labels).mean()) - curve.expected) < 0.08
    assert "with 80 expect" in curve.line()
    assert learning_curve(*hard(20), 3, hard(400), strength=1e-2) is None
    assert learning_curve(*hard(120), 3, hard(40), strength=1e-2) is None


def test_the_curve_stays_in_its_range_without_mistakes_and_with_more_mistakes_of_more_images() -> None:
    labels = np.arange(150) % 3
    easy = 10 * np.eye(3, dtype=np.float32)[labels], labels
    curve = learning_curve(*easy, 3, easy, strength=1e-2)
    assert curve is not None and curve.accuracy == (1.0, 1.0, 1.0)
    assert 0.99 < curve.low <= curve.expected <= curve.high <= 1
    images, worse = np.array([10.0, 20.0, 40.0]), np.array([0.9, 0.8, 0.7])
    assert _extrapolated(images, worse, 80.0) == pytest.approx(0.7)


@pytest.mark.parametrize("stage", [1, 2])
def test_without_validation_images_the_last_network_counts(stage: int) -> None:
    run, _ = trained(f"blind-{stage}", f"transfer.stages={stage}", "split.validation=0", "trainer.epochs=1")
    assert json.loads((run / "train.json").read_text())["best"]["epoch"] == stage - 1


def test_settings_of_fine_tuning_do_not_change_a_linear_head() -> None:
    def key(*overrides: str) -> str:
        return run_key(plain(compose([*TRANSFER, *overrides])), PreparedDataset.open("data/processed/tinted"))

    tuning = ("trainer.lr=0.5", "trainer.epochs=3", "augmentation=[]")
    assert key("transfer.stages=1") == key("transfer.stages=1", *tuning)
    assert key("transfer.stages=1") != key("transfer.stages=1", "trainer.class_weights=balanced")
    assert key("transfer.stages=2") != key("transfer.stages=2", "trainer.lr=0.5") != key("transfer.stages=1")


def test_a_network_of_ours_can_be_the_pretrained_one() -> None:
    run, _ = trained("teacher", "transfer.stages=1")
    node = plain(compose([*TRANSFER, f"network.pretrained={run / 'model.pt'}"]))["network"]
    network, images = build(node, 3, 3, 64).eval(), torch.rand(2, 3, 64, 64)
    packaged = build({**node, "pretrained": True}, 3, 3, 64).eval()
    torch.testing.assert_close(network.embedding(images), packaged.embedding(images))


@pytest.mark.slow
def test_a_pruned_network_needs_the_pretrained_file_no_more() -> None:
    source, _ = trained("source", "transfer.stages=1")
    shutil.copy(source / "model.pt", "mine.pt")
    head, _ = trained("head", "transfer.stages=1", "network.pretrained=mine.pt")
    Path("mine.pt").unlink()
    settings = ["teacher=null", "trainer.epochs=1", "trainer.batch_size=32"]
    pruned = prune("head", "head-pruned", 0.5, settings, lambda _: None)
    assert torchscript.load(pruned / "model.pt").spec.provenance["weights"]["source"] == "mine.pt"
    assert (pruned / "weights.json").read_bytes() == (head / "weights.json").read_bytes()


def test_weights_beside_pretrained_ones_are_refused_in_the_first_stage_too() -> None:
    lines: list[str] = []
    with pytest.raises(ConfigurationError, match=r"network\.pretrained and network\.weights are both set"):
        train(compose([*TRANSFER, "name=both", "transfer.stages=1", "+network.weights=other.pt"]), lines.append)
    assert not any("linear head" in line for line in lines), "refused before the head is fitted"


def test_an_epoch_with_lower_accuracy_than_the_head_is_not_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 10, None, print)
    checkpoints.best = {"epoch": 0, "validation_loss": 2.0, "validation_accuracy": 0.9}
    assert not checkpoints._is_best({"validation_loss": 1.0, "validation_accuracy": 0.8})
    assert checkpoints._is_best({"validation_loss": 3.0, "validation_accuracy": 0.9})
