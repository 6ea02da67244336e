"""Heat maps of a classifier: by class activation where its network allows that, else by occlusion.

Where the logits are a linear function of the mean of the last feature map, this function is applied to each of its
places: class activation mapping (Zhou et al. 2016, arXiv:1512.04150), which is Grad-CAM for such networks. It needs the
features, which the network of a worker does not answer: model.pt of the archive is loaded once more when an explanation
is asked for, and runs in float32 on the CPU. An artifact compiled ahead of time has no features.

Neither method needs a gradient or a hook.
"""

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from handlers.classifier import Classifier
from handlers.errors import ArtifactError, BadRequest, Busy, RequestError
from handlers.explanation import occlusion, overlay
from handlers.images.decoding import Buffer
from handlers.network import torchscript
from handlers.network.aot import is_aot_package
from handlers.preprocessing import Preprocess

CAM, OCCLUSION = "cam", "occlusion"
DIGITS = 4  # of a number of a map in a document


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Where a network sees a label in an image: `heat` (h, w), from 0 to 1, over the whole of `image` (C, S, S)."""

    label: str
    probability: float
    method: str
    heat: torch.Tensor
    image: torch.Tensor

    def document(self) -> dict[str, Any]:
        """Return the JSON document; `size` is the side in pixels of the square that the map covers."""
        return {
            "label": self.label,
            "probability": self.probability,
            "method": self.method,
            "size": self.image.shape[-1],
            "map": [[round(value, DIGITS) for value in row] for row in self.heat.tolist()],
        }

    def png(self) -> bytes:
        """Return the image as the network gets it, with the map laid over it."""
        return overlay.png(self.image, self.heat)


class Explainer:
    """Explains the answers of a classifier, whose artifact is the file `weights`."""

    def __init__(self, classifier: Classifier, weights: Path) -> None:
        self._classifier, self._weights = classifier, weights
        self._left = math.inf  # seconds

    def check(self, label: str | None) -> None:
        """Raise BadRequest for a label that the classifier does not know."""
        classes = self._classifier.spec.classes
        if label is not None and label not in classes:
            raise BadRequest(f"no label is {label[:100]!a}: ask for one of the {len(classes)} labels of the model")

    def allow(self, seconds: float) -> None:
        """Limit the processor seconds of explanations from now on: those that come later are Busy."""
        self._left = seconds

    def explain(self, encoded: Buffer | RequestError, label: str | None = None) -> Explanation | RequestError:
        """Return where the network sees a label in an image (None: the most probable one), or the image's error.

        Raises:
            BadRequest: there is no such label.
        """
        self.check(label)
        if isinstance(encoded, RequestError):
            return encoded
        if self._left <= 0:
            return Busy("the explanations of this batch take longer than a worker may")
        start = time.thread_time()
        try:
            (image,) = self._classifier.decode([encoded])
            return image if isinstance(image, RequestError) else self.explain_image(image, label)
        finally:
            self._left -= time.thread_time() - start

    @torch.inference_mode()
    def explain_image(self, image: torch.Tensor, label: str | None = None) -> Explanation:
        """Return the same for an image that the classifier decoded, uint8 (C, S, S), without a limit of time."""
        (probabilities,) = self._classifier.predict([image])
        classes = self._classifier.spec.classes
        place = int(probabilities.argmax()) if label is None else classes.index(label)
        method, scores = self._scores(image, place)
        heat = scores.clamp(min=0)
        peak = float(heat.max())
        heat = heat / peak if peak > 0 else heat
        return Explanation(classes[place], float(probabilities[place]), method, heat, image)

    def _scores(self, image: torch.Tensor, place: int) -> tuple[str, torch.Tensor]:
        """Return the method, and what each place of the image adds to the logit of a class, (h, w)."""
        if self._network is not None:
            inputs = self._preprocess.normalize(image.cpu()[None]).contiguous(memory_format=torch.channels_last)
            return CAM, torchscript.interpreted(self._network, inputs)[0, :, :, place]

        def of_class(images: Sequence[torch.Tensor]) -> torch.Tensor:
            return self._classifier.outputs(images)[:, place]

        fill = (255 * self._preprocess.mean).round().to(image.device, torch.uint8)
        return OCCLUSION, occlusion.falls(image, of_class, fill)

    @functools.cached_property
    def _preprocess(self) -> Preprocess:
        return Preprocess(self._classifier.spec.preprocess)

    @functools.cached_property
    def _network(self) -> nn.Module | None:
        """Return the network that scores the places of its feature map, None if its head is of another kind."""
        if is_aot_package(self._weights):
            return None
        try:
            return torchscript.place_scores(torchscript.load(self._weights))
        except ArtifactError as error:
            logging.getLogger(__name__).info("explanations by occlusion: %s", error)
            return None
