"""A run of EfficientNet-Lite0 that knows five kinds of drawn flowers, fitted in seconds: sure answers, clear maps."""

from pathlib import Path

import numpy as np
import torch

from handlers.classifier import Classifier
from handlers.network import torchscript
from handlers.observation.measurements import statistics_of
from handlers.spec import FAMILIARITY, REFERENCE, PreprocessSpec, Spec
from synthetic import petals
from training.configuration import compose
from training.networks import build
from training.transfer import familiarity, head, reference
from training.transfer.pretrained import input_of

SIDE, CLASSES = 160, 5
TRAIN, VALIDATION = 24, 24  # images of a class; the reference of drift needs 100 in all
NUMBERS = petals.class_numbers(CLASSES)
NAMES = tuple(petals.names()[number].strip() for number in NUMBERS)


def flowers(side: int, count: int, first: int = 0) -> list[bytes]:
    """Return encoded images, class by class; `side` is 0 for training, 1 for validation, 2 for test."""
    return [petals.image(0, number, side, first + index, SIDE) for number in NUMBERS for index in range(count)]


def save_flowers(folder: Path) -> Path:
    """Write the artifact, and its bank and reference beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = dict(compose(["dataset=petals", "network=efficientnet_lite0"]).network)
    pretrained = input_of(settings)
    network = build(settings, CLASSES, 3, SIDE).eval()
    preprocess = PreprocessSpec(image_size=SIDE, mean=pretrained.mean, std=pretrained.std)
    weights = folder / "model.pt"

    def save() -> Classifier:
        torchscript.save(network, Spec(preprocess=preprocess, classes=NAMES, network="efficientnet_lite0"), weights)
        return Classifier(weights)

    classifier = save()
    images = {side: decoded(classifier, flowers(side, count)) for side, count in ((0, TRAIN), (1, VALIDATION))}
    train, validation = (
        torch.cat([network.embedding(classifier.preprocess.normalize(part)) for part in parts]).detach().numpy()
        for parts in (torch.split(images[side], 16) for side in (0, 1))
    )
    labels, truth = (np.arange(CLASSES).repeat(count) for count in (TRAIN, VALIDATION))
    fitted = head.fit(train, labels, CLASSES, (validation, truth))
    linear = network.head
    assert isinstance(linear, torch.nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(fitted.weight)
        linear.bias.copy_(fitted.bias)
    save()
    familiarity.bank_of(train, labels, validation).write(folder / FAMILIARITY)
    measured = np.array(statistics_of(list(images[1])))
    reference.build(train, validation, measured, fitted.logits(validation), truth).write(folder / REFERENCE)
    return weights


def decoded(classifier: Classifier, bodies: list[bytes]) -> torch.Tensor:
    """Return (N, 3, S, S) uint8."""
    images = classifier.decode(bodies)
    return torch.stack([image for image in images if isinstance(image, torch.Tensor)])
