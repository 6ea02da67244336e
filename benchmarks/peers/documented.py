"""The parts of an image classifier in the documentation of LitServe and BentoML: Pillow, torchvision, float32.

The weights are ours, loaded as TorchScript; images are resized to 256, cropped to 224 and normalized, as torchvision's
own weights ask for.
"""

import io
from pathlib import Path

import torch
from PIL import Image
from torchvision import transforms

from handlers.network import torchscript
from handlers.run_folder import RunFolder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Parts:
    """A network, its preprocessing, and the names of its classes."""

    def __init__(self, run: Path) -> None:
        loaded = torchscript.load(RunFolder(run).model)
        self.model, self.classes = loaded.module, loaded.spec.classes
        size = loaded.spec.preprocess.image_size
        self.transform = transforms.Compose(
            [
                transforms.Resize(size * 256 // 224),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def read(self, data: bytes) -> torch.Tensor:
        """Return one image as the network takes it."""
        return self.prepare(Image.open(io.BytesIO(data)))

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Return one opened image as the network takes it."""
        prepared: torch.Tensor = self.transform(image.convert("RGB"))
        return prepared

    def predict(self, batch: torch.Tensor) -> list[dict[str, float]]:
        """Return the five most probable classes of each image, best first."""
        with torch.inference_mode():
            values, rows = self.model(batch).softmax(1).topk(min(5, len(self.classes)))
        return [
            {self.classes[row]: value for row, value in zip(names, numbers, strict=True)}
            for names, numbers in zip(rows.tolist(), values.tolist(), strict=True)
        ]
