"""The spec of a network's images and classes; written once by export, and read by every later step."""

import dataclasses
import json
import math
from typing import Any, Literal

# The forms of a network, by the names of their files in a run and in an archive.
ARTIFACTS = {"torchscript": "model.pt", "pt2": "model.pt2"}
# Beside model.pt.
INT8 = "model.int8.pt"
FAMILIARITY = "familiarity.bin"
REFERENCE = "drift.bin"

SCHEMA_VERSION = 2

Resize = Literal["squash", "crop"]
Interpolation = Literal["bilinear", "bicubic"]
Colour = Literal["rgb", "grey"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessSpec:
    """How an image of any size becomes the network's input.

    `image_size` is the side of the square input in pixels. `resize` is "squash" (both sides to `image_size`) or
    "crop" (the short side to `image_size / crop_fraction`, then the centre). `interpolation` is the filter of both.
    `mean` and `std` are per channel, of values in [0, 1]: three for "rgb", one for "grey".
    """

    image_size: int
    resize: Resize = "squash"
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bilinear"
    colour: Colour = "rgb"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}, must be at least 1")
        if self.resize not in ("squash", "crop"):
            raise ValueError(f"resize is {self.resize!r}, must be 'squash' or 'crop'")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction is {self.crop_fraction}, must be in (0, 1]")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation is {self.interpolation!r}, must be 'bilinear' or 'bicubic'")
        if self.colour not in ("rgb", "grey"):
            raise ValueError(f"colour is {self.colour!r}, must be 'rgb' or 'grey'")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} values, colour {self.colour!r} needs {self.channels}")
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}, must be above 0")

    @property
    def channels(self) -> int:
        """Return the number of channels of the network's input."""
        return 3 if self.colour == "rgb" else 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of one input of the network, (C, S, S)."""
        return self.channels, self.image_size, self.image_size


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Stored with the weights: preprocessing, class names in output order, and their origin.

    `temperature` divides the logits before the softmax (Guo et al. 2017, "On calibration of modern neural networks").
    """

    preprocess: PreprocessSpec
    classes: tuple[str, ...]
    network: str
    temperature: float = 1.0
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}, must be a finite number above 0")

    def to_json(self) -> str:
        """Return the document that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Spec":
        """Read a document of this schema version or an older one.

        Rule for older ones: each version that renames or adds a field brings a step here from the version before it,
        so any old document is lifted one version at a time. A newer document is refused.

        Raises:
            ValueError: the document is newer than this code, or a field is missing or wrong.
        """
        document = json.loads(text)
        version = document.get("schema_version")
        if not isinstance(version, int) or version < 1:
            raise ValueError("spec.json has no schema_version: it was not written by Sightline's export")
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"spec.json has schema version {version}, this code reads up to {SCHEMA_VERSION}: update Sightline"
            )
        try:
            if version == 1:
                document = _second(document)
            preprocess = dict(document["preprocess"])
            preprocess["mean"], preprocess["std"] = tuple(preprocess["mean"]), tuple(preprocess["std"])
            return cls(
                preprocess=PreprocessSpec(**preprocess),
                classes=tuple(document["classes"]),
                network=document["network"],
                temperature=document["temperature"],
                provenance=document["provenance"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"spec.json is not complete: {error}") from error


def _second(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document of version 1 as one of version 2, which adds the interpolation and the temperature."""
    return {**document, "preprocess": {"interpolation": "bilinear", **document["preprocess"]}, "temperature": 1.0}
