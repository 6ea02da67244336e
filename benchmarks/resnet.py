"""The network that benchmarks of speed ask: ResNet-18, 224 x 224, 12 classes, and drawn scenes that it can tell apart.

No training of minutes for what a measurement needs: convolutions keep their seeded random weights, norms take the
statistics of the images, and the last layer is solved for by least squares. How fast it is does not depend on that; how
far another precision moves an answer does, so a trained network's own figures are in its `export.json`.
"""

from collections.abc import Sequence

import torch
from torch import nn

from handlers.decoding import decode
from handlers.preprocessing import Preprocess
from handlers.spec import PreprocessSpec, Spec
from training.generate import places365
from training.networks import Network, build

SIDE, CLASSES, BATCH = 224, 12, 64
RIDGE = 1e-3  # of the mean square of a feature: keeps the solution small where features say the same
MARGIN = 10.0  # logits between the right class and the others, on the images that were fitted


def spec(classes: int = CLASSES, side: int = SIDE) -> Spec:
    """Return what goes inside the artifact."""
    names = tuple(places365.names()[label] for label in places365.chosen(classes))
    return Spec(preprocess=PreprocessSpec(image_size=side), classes=names, network="resnet18")


def scenes(of: Spec, images_per_class: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return drawn scenes of the classes of a spec, normalised float32 (N, 3, S, S), classes mixed, and labels (N,).

    `side` 0 is what a network is fitted to, 1 what it is judged on.
    """
    preprocess = Preprocess(of.preprocess)
    labels = [label for _ in range(images_per_class) for label in range(len(of.classes))]
    numbers = [places365.names().index(name) for name in of.classes]
    size = of.preprocess.image_size
    encoded = [
        places365.image(0, numbers[label], side, index // len(of.classes), size) for index, label in enumerate(labels)
    ]
    return preprocess([decode(each) for each in encoded]), torch.tensor(labels)


def untrained(classes: int = CLASSES) -> Network:
    """Return the network with seeded random weights."""
    torch.manual_seed(0)
    return build({"kind": "resnet18", "zero_init_residual": False}, classes, 3, SIDE).eval()


@torch.no_grad()
def fitted(images: torch.Tensor, labels: torch.Tensor, classes: int = CLASSES) -> Network:
    """Return the network in evaluation mode, fitted to normalised images (N, 3, S, S) with labels (N,)."""
    network = untrained(classes)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
        norm.reset_running_stats()
    network.train()
    for batch in batches(images):
        network(batch)
    network.eval()
    features = torch.cat([network.embedding(batch) for batch in batches(images)]).double()
    _solve(network.head, features, labels)
    return network


def batches(images: torch.Tensor, size: int = BATCH) -> list[torch.Tensor]:
    """Return parts of (N, ...) with `size` images each, the last one with what is left."""
    return [images[start : start + size] for start in range(0, len(images), size)]


def _solve(layer: nn.Linear, features: torch.Tensor, labels: torch.Tensor) -> None:
    """Set a linear layer to what answers `MARGIN` for the label of each row of features (N, D) and 0 for the others."""
    centre = features.mean(0)
    centred = features - centre
    ridge = RIDGE * centred.square().mean() * len(features) * torch.eye(features.shape[1], dtype=torch.float64)
    wanted = MARGIN * nn.functional.one_hot(labels, layer.out_features).double()
    weight = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ (wanted - wanted.mean(0)))
    layer.weight.copy_(weight.T)
    layer.bias.copy_(wanted.mean(0) - centre @ weight)


def accuracy(logits: torch.Tensor, labels: Sequence[int] | torch.Tensor) -> float:
    """Return the share of right answers."""
    return float((logits.argmax(1) == torch.as_tensor(labels)).double().mean())
