"""A network small enough for a unit test, whose answer depends on the whole image."""

from pathlib import Path

import torch
from torch import nn

from handlers.network import torchscript
from handlers.spec import Colour, PreprocessSpec, Resize, Spec

CLASSES = ("ant", "bee", "cat")


class SmallNetwork(nn.Module):
    """Logits from a feature map of (B, 6, S/2, S/2); `fixed_batch` lets tracing take the batch for a constant."""

    def __init__(self, channels: int = 3, classes: int = len(CLASSES), *, fixed_batch: bool = False) -> None:
        super().__init__()
        self.fixed_batch = fixed_batch
        self.convolution = nn.Conv2d(channels, 6, kernel_size=3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(12, classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.convolution(images)))

    def embedding(self, images: torch.Tensor) -> torch.Tensor:
        features = self.features(images)
        batch = int(images.shape[0]) if self.fixed_batch else images.shape[0]
        return torch.cat((features.mean((2, 3)), features.amax((2, 3))), dim=1).reshape(batch, 12)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.dropout(self.embedding(images))) * 20
        return logits


def small_spec(*, size: int = 16, colour: Colour = "rgb", resize: Resize = "squash") -> Spec:
    """Return a spec of three classes, whose probabilities are less sure than the network's logits."""
    channels = 3 if colour == "rgb" else 1
    preprocess = PreprocessSpec(
        image_size=size, resize=resize, colour=colour, mean=(0.5,) * channels, std=(0.25,) * channels
    )
    return Spec(preprocess=preprocess, classes=CLASSES, network="small", temperature=1.7, provenance={"seed": 0})


def save_small(path: Path, *, colour: Colour = "rgb") -> Path:
    """Write an artifact with the weights of seed 0."""
    torch.manual_seed(0)
    spec = small_spec(colour=colour)
    torchscript.save(SmallNetwork(spec.preprocess.channels), spec, path)
    return path
