"""The network of benchmarks of speed, ResNet-18 at 224 x 224 with 12 classes, and drawn scenes for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from handlers.images.decoding import decode
from handlers.network import torchscript
from handlers.preprocessing import Preprocess
from handlers.run_folder import RunFolder
from handlers.spec import PreprocessSpec, Spec
from synthetic import places365
from training.configuration import compose, plain
from training.networks import Network, build
from training.transfer.weights import load_checkpoint

SIDE, CLASSES, BATCH = 224, 12, 64


def spec(classes: int = CLASSES, side: int = SIDE, network: str = "resnet18") -> Spec:
    """Return the spec of the artifact."""
    names = tuple(places365.names()[label].split("/", 2)[-1] for label in places365.class_numbers(classes))
    return Spec(preprocess=PreprocessSpec(image_size=side), classes=names, network=network)


def scenes(of: Spec, images_per_class: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return drawn scenes of the classes of a spec, normalised float32 (N, 3, S, S), classes mixed, and labels (N,).

    `side` 0 is for training and calibration, 1 for testing.
    """
    preprocess = Preprocess(of.preprocess)
    labels = [label for _ in range(images_per_class) for label in range(len(of.classes))]
    # The list of Places365 has a folder for each letter, which names of a data set omit.
    names = [name.split("/", 2)[-1] for name in places365.names()]
    numbers = [names.index(name) for name in of.classes]
    size = of.preprocess.image_size
    encoded = [
        places365.image(0, numbers[label], side, index // len(of.classes), size) for index, label in enumerate(labels)
    ]
    return preprocess([decode(data) for data in encoded]), torch.tensor(labels)


def untrained(classes: int = CLASSES, network: str = "resnet18") -> Network:
    """Return a network of the configuration with seeded random weights.

    In a ResNet-18 all weights are random. In a deeper one the residual branches start at zero: else its values would
    exceed the range of fp16.

    Raises:
        ConfigurationError: there is no such network.
    """
    configured = plain(compose([f"network={network}"]))["network"]
    node = {key: value for key, value in configured.items() if key not in ("pretrained", "weights")}
    if network == "resnet18":
        node["zero_init_residual"] = False
    torch.manual_seed(0)
    return build(node, classes, 3, SIDE).eval()


def learnt(run: Path) -> Network:
    """Return the network of a run with the weights of its best checkpoint, in evaluation mode."""
    files = RunFolder(run)
    settings: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(files.config).network)  # type: ignore[assignment]
    of = torchscript.load(files.model).spec
    network = build({**settings, "weights": None, "pretrained": False}, len(of.classes), *of.preprocess.shape[:2])
    load_checkpoint(network, files.best_checkpoint)
    return network.eval()


def batches(images: torch.Tensor, size: int = BATCH) -> list[torch.Tensor]:
    """Return parts of (N, ...) with `size` images each, the last one with the remainder."""
    return [images[start : start + size] for start in range(0, len(images), size)]


def accuracy(logits: torch.Tensor, labels: Sequence[int] | torch.Tensor) -> float:
    """Return the share of right answers."""
    return float((logits.argmax(1) == torch.as_tensor(labels)).double().mean())
