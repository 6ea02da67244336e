from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.network import torchscript
from handlers.network.engine import Engine, optimized
from handlers.spec import PreprocessSpec, Spec
from training.configuration import ConfigurationError, compose, plain
from training.networks import DroppedNorm, build

SIZE = 32
# vgg16's 134 million weights are built once, not in every test.
KINDS: dict[str, dict[str, Any]] = {
    "small_cnn": {},
    "resnet18": {},
    "resnet18 small": {"stem": "small", "stem_stride": 2, "drop_path": 0.2},
    "resnet50": {"zero_init_residual": False},
    "vgg16": {},
    "vit": {"embed_dim": 24, "depth": 2},
    "timm": {"model": "convnext_atto"},
    "timm vit": {"model": "vit_tiny_patch16_224"},
    "timm swin": {"model": "swin_tiny_patch4_window7_224", "options": {"window_size": 2}},
}
LARGE = ("resnet50", "vgg16", "timm swin")  # whose export takes 5 to 10 seconds


def node(name: str, **options: Any) -> dict[str, Any]:
    given = name.split()[0]
    return {**plain(compose([f"network={given}"]))["network"], **KINDS[name], **options}


@pytest.mark.parametrize("name", KINDS)
def test_logits_features_and_embedding(name: str, device: torch.device) -> None:
    channels = 1 if name in ("small_cnn", "resnet18", "vit", "timm") else 3
    network = build(node(name), 5, channels, SIZE).to(device).eval()
    images = torch.rand(2, channels, SIZE, SIZE, device=device)
    with torch.no_grad():
        logits, features, embedding = network(images), network.features(images), network.embedding(images)
    assert logits.shape == (2, 5) and features.shape[0] == 2 and features.ndim == 4 and embedding.ndim == 2
    assert torch.allclose(network.head(embedding), logits, atol=1e-5)
    assert len(features[0, 0].flatten()) >= 1 and features.shape[1] >= 16


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in KINDS]
)
def test_every_network_is_exported_and_answers_alike(name: str, tmp_path: Path) -> None:
    network = build(node(name), 5, 3, SIZE).eval()
    spec = Spec(preprocess=PreprocessSpec(image_size=SIZE), classes=tuple("abcde"), network=name)
    torchscript.save(network, spec, tmp_path / "model.pt")
    device = torch.device("cpu")
    module = optimized(torchscript.load(tmp_path / "model.pt").module, device, "fp32")
    engine = Engine(module, (3, SIZE, SIZE), device, "fp32")
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(images)
    for _ in range(4):
        inputs = engine.buffer(3)
        inputs[:3] = images
        torch.testing.assert_close(engine(inputs)[:3], expected, rtol=1e-3, atol=1e-4)


def test_a_map_stands_as_the_image_does() -> None:
    """Change one corner of an image: of a transformer's map, made of tokens, that corner changes most."""
    network = build(node("vit", embed_dim=24, depth=1), 3, 3, SIZE).eval()
    images = torch.zeros(2, 3, SIZE, SIZE)
    images[1, :, :8, -8:] = 3.0
    with torch.no_grad():
        features = network.features(images)
    change = (features[1] - features[0]).norm(dim=0)
    assert change.flatten().argmax() == 3


def test_the_small_stem_keeps_the_size_and_the_imagenet_stem_does_not() -> None:
    image = torch.rand(1, 3, SIZE, SIZE)
    sides = {}
    for stem, stride in (("small", 1), ("small", 2), ("imagenet", 1)):
        network = build({"kind": "resnet18", "stem": stem, "stem_stride": stride}, 3, 3, SIZE).eval()
        sides[stem, stride] = network.features(image).shape[-1]
    assert sides == {("small", 1): 4, ("small", 2): 2, ("imagenet", 1): 1}


def test_stochastic_depth_leaves_out_whole_branches_only_in_training() -> None:
    norm = DroppedNorm(4, 0.5)
    images = torch.rand(64, 4, 3, 3) + 1
    dropped = (norm(images) == 0).flatten(1).all(dim=1)
    assert 10 < int(dropped.sum()) < 54
    assert not (norm.eval()(images) == 0).flatten(1).all(dim=1).any()


def test_layers_are_configuration() -> None:
    layers = [
        {"channels": 6, "kernel": 5, "stride": 2, "padding": 0},
        {"channels": 7, "pool": "avg", "pool_size": 3, "pool_stride": 1, "pool_padding": 1},
    ]
    network = build({"kind": "cnn", "layers": layers, "hidden": [9]}, 4, 1, 21)
    assert network.features(torch.rand(2, 1, 21, 21)).shape == (2, 7, 9, 9)
    assert network.embedding(torch.rand(2, 1, 21, 21)).shape == (2, 9)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"kind": "resnet19"}, "'resnet19'; near it: resnet1?8?"),
        ({"kind": "resnet18", "stems": "small"}, "no option 'stems'; near it: stem"),
        ({"kind": "resnet18", "stem": "tiny"}, "imagenet or small"),
        (
            {"kind": "cnn", "layers": [{"channels": 4, "strides": 2}]},
            r"layers\[0\] has no option 'strides'; near it: str",
        ),
        ({"kind": "cnn", "layers": [{"channels": 4, "pool": "mean"}]}, "max, avg or null"),
        ({"kind": "cnn", "layers": []}, "at least one layer"),
        ({"kind": "cnn", "layers": [{"channels": 4, "pool": "max", "pool_size": 64}]}, "leave nothing of 32 x 32"),
        ({"kind": "timm", "model": "resnet1"}, "timm has no model 'resnet1'; near it: resnet"),
        ({"kind": "vit", "patch_size": 7, "embed_dim": 8, "depth": 1, "num_heads": 1}, "does not divide"),
        ({"kind": "resnet18", "freeze": "all"}, "none or features"),
        ({"kind": "resnet18", "weights": "nowhere.pt"}, r"nowhere.pt does not exist"),
    ],
)
def test_what_cannot_be_built_says_what_can(network: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(network, 3, 3, SIZE)


def test_weights_of_the_library_go_into_a_network_of_other_classes_and_grey_images(tmp_path: Path) -> None:
    import torchvision

    source = torchvision.models.resnet18()
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    network = build({"kind": "resnet18", "weights": str(tmp_path / "resnet18.pth")}, 7, 1, SIZE)
    assert torch.equal(network.body.layer3[0].conv1.weight, source.layer3[0].conv1.weight)
    assert torch.allclose(network.body.conv1.weight, source.conv1.weight.sum(dim=1, keepdim=True))
    assert network(torch.rand(2, 1, SIZE, SIZE)).shape == (2, 7)


def test_our_own_averaged_weights_come_before_the_others(tmp_path: Path) -> None:
    ours = build({"kind": "resnet18"}, 3, 3, SIZE)
    average = build({"kind": "resnet18"}, 3, 3, SIZE)
    state = {f"network.{key}": value for key, value in ours.state_dict().items()}
    state |= {f"average.module.{key}": value for key, value in average.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "best.ckpt")
    network = build({"kind": "resnet18", "weights": str(tmp_path / "best.ckpt")}, 3, 3, SIZE)
    assert torch.equal(network.head.weight, average.head.weight)
    assert torch.equal(network.body.conv1.weight, average.body.conv1.weight)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(build({"kind": "resnet18"}, 3, 3, SIZE).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ConfigurationError, match=r"other\.pt does not hold this network"):
        build({"kind": "resnet50", "weights": str(tmp_path / "other.pt")}, 3, 3, SIZE)
    (tmp_path / "text.pt").write_text("not weights")
    with pytest.raises(ConfigurationError, match=r"text\.pt holds no weights"):
        build({"kind": "resnet18", "weights": str(tmp_path / "text.pt")}, 3, 3, SIZE)


def test_pretrained_weights_that_cannot_be_had_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ConfigurationError, match=r"torchvision resnet18 are neither in the cache.*network\.weights="):
        build({"kind": "resnet18", "pretrained": True}, 3, 3, SIZE)
