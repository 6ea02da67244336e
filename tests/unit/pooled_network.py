"""An artifact whose logits are linear in the mean of its feature map."""

from pathlib import Path

import torch

from handlers.network import torchscript
from handlers.spec import PreprocessSpec, Spec
from tests.unit.small_network import CLASSES
from training.networks import Network, build

SIZE = 32
LAYERS = [{"channels": 8, "pool": "max"}, {"channels": 12, "pool": "max"}]


def pooled_network(classes: int = len(CLASSES), **options: object) -> Network:
    """Return two convolutions, a mean and a linear layer, with the weights of seed 0."""
    torch.manual_seed(0)
    network = build({"kind": "cnn", "layers": LAYERS, **options}, classes, 3, SIZE).eval()
    with torch.no_grad():
        network.head.weight.mul_(20)
    return network


def save_pooled(folder: Path, **options: object) -> Path:
    """Write its artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = Spec(preprocess=PreprocessSpec(image_size=SIZE), classes=CLASSES, network="cnn", temperature=1.7)
    torchscript.save(pooled_network(**options), spec, folder / "model.pt")  # type: ignore[arg-type]
    return folder / "model.pt"
