"""Weights to start from: a library's own if they can be downloaded, else a local file."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from training.configuration import ConfigurationError
from training.transfer.padding import grown_kernel

T = TypeVar("T")
# A Lightning checkpoint of ours holds the averaged weights first, if any.
PREFIXES = ("average.module.", "network.", "module.", "model.", "")


def pretrained_weights(network: str, get: Callable[[], T]) -> T:
    """Return what `get` downloads or finds in its cache.

    Raises:
        ConfigurationError: neither is possible.
    """
    try:
        return get()
    except Exception as error:  # each library raises its own: URLError, HfHubHTTPError, RuntimeError, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigurationError(
            f"the pretrained weights of {network} are neither in the cache nor can they be downloaded ({reason}). "
            "Fetch them elsewhere and give network.weights=<file>, or set network.pretrained=false"
        ) from error


def load_weights(network: nn.Module, source: str | Mapping[str, torch.Tensor]) -> None:
    """Copy weights into `network`, from a state dict or from a file (.pt, .pth, .ckpt, .safetensors, our own model.pt).

    The last layer is not loaded if its classes differ, and the first one summed over colours for grey images.

    Raises:
        ConfigurationError: the file is missing, is not of such a kind, or holds weights of another network.
    """
    state = dict(read(Path(source)) if isinstance(source, str) else source)
    name = source if isinstance(source, str) else "the pretrained weights"
    current = network.state_dict()
    matched = _match(state, current)
    fitting = {key: fitted for key, value in matched.items() if (fitted := _fit(value, current[key])) is not None}
    missing = [key for key in current if key not in fitting and not key.startswith("head.")]
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing:
        raise ConfigurationError(
            f"{name} does not hold this network: {len(missing)} of {len(current)} weights are missing or of another "
            f"shape, {missing[0]} the first of them. Choose the network that the weights were trained with"
        )
    network.load_state_dict({**current, **fitting})


def load_checkpoint(network: nn.Module, path: Path) -> None:
    """Copy the validated weights of a training checkpoint into `network`: the averaged ones, if it has any."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    prefix = next(prefix for prefix in PREFIXES if any(key.startswith(prefix) for key in state))
    network.load_state_dict({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})


def read(path: Path) -> Mapping[str, torch.Tensor]:
    """Return the weights in a file.

    Raises:
        ConfigurationError: it is missing, or torch cannot read it.
    """
    if not path.is_file():
        raise ConfigurationError(
            f"network.weights: {path} does not exist. Give an existing file, or network.weights=null"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return _state(path)
    except Exception as error:  # a file of any kind may be given; each way of reading fails in its own way
        raise ConfigurationError(f"network.weights: {path} holds no weights that torch can read ({error})") from error


def _state(path: Path) -> Mapping[str, torch.Tensor]:
    import zipfile

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            ours = any(name.endswith("/spec.json") for name in file.namelist())
        if ours:
            from handlers.network.torchscript import load

            return load(path).module.state_dict()
    document: Any = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(document.get(key), Mapping):
            document = document[key]
    return {str(key): value for key, value in document.items() if isinstance(value, torch.Tensor)}


def _match(state: Mapping[str, torch.Tensor], current: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights under our names, whichever wrapper they were saved from."""
    return max(_candidates(state, current), key=len)


def _candidates(
    state: Mapping[str, torch.Tensor], current: Mapping[str, torch.Tensor]
) -> Iterator[dict[str, torch.Tensor]]:
    for prefix in PREFIXES:
        stripped = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        for ours in ("", "body."):
            yield {ours + key: value for key, value in stripped.items() if ours + key in current}


def _fit(value: torch.Tensor, current: torch.Tensor) -> torch.Tensor | None:
    """Return weights in the shape of a network's own, None if they do not fit."""
    if value.shape == current.shape:
        return value
    if value.ndim != 4 or current.ndim != 4:
        return None
    if value.shape[:2] == current.shape[:2]:
        # timm's own form of a network that was written with equal padding
        return grown_kernel(value, current.shape[-1]) if value.shape[-1] + 1 == current.shape[-1] else None
    summed = value.sum(dim=1, keepdim=True)  # over the colours, for grey images
    return summed if summed.shape == current.shape else None
