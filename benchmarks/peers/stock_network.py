"""ResNet-18 as TorchServe's handler loads it from a state dict; a member of the archive of the stock handler.

Only a module that is not TorchScript can be compiled by the handler's `pt2: compile:`.
"""

import json
from pathlib import Path

from torchvision.models.resnet import BasicBlock, ResNet


class StockNetwork(ResNet):  # type: ignore[misc]  # torchvision has no types
    """torchvision's network with as many classes as the archive names."""

    def __init__(self) -> None:
        names = json.loads(Path(__file__).with_name("index_to_name.json").read_text())
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=len(names))
