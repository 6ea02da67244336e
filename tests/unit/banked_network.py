"""An artifact with a bank of training images beside it."""

from pathlib import Path

import numpy as np
import torch

from handlers.classifier import Classifier
from handlers.network import torchscript
from handlers.spec import FAMILIARITY
from tests.unit.small_network import SmallNetwork, small_spec
from tests.unit.test_classifier import png
from training.transfer import familiarity


class PlainNetwork(SmallNetwork):
    """A small network whose logits are those of its head, as networks of training have them."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.embedding(images))
        return logits


def save_banked(folder: Path) -> Path:
    """Write the artifact of a `PlainNetwork`, and beside it a bank of drawn images."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torchscript.save(PlainNetwork(), small_spec(), folder / "model.pt")
    classifier = Classifier(folder / "model.pt")
    decoded = [
        image for image in classifier.decode([png(seed) for seed in range(60)]) if isinstance(image, torch.Tensor)
    ]
    with torch.no_grad():
        module = torchscript.load(folder / "model.pt").module
        embeddings = module.embedding(classifier.preprocess.normalize(torch.stack(decoded))).numpy()  # type: ignore[operator]
    bank = familiarity.bank_of(embeddings[:30], np.arange(30) % 3, embeddings[30:])
    bank.write(folder / FAMILIARITY)
    return folder / "model.pt"
