"""The first stage of transfer: a linear head on the features of the frozen pretrained network."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rich.console import Console

from handlers.spec import PreprocessSpec
from training.configuration import ConfigurationError
from training.data.progress import plain_console
from training.data.splits import Rows, Split
from training.data.store import PreparedDataset
from training.networks import Network, build
from training.precision import use_all_cores
from training.transfer import head, pretrained
from training.transfer.features import FOLDER, Features, features
from training.transfer.learning_curve import learning_curve

# Settings of a network that do not change the features of the frozen one.
NOT_IN_FEATURES = ("dropout", "drop_path", "freeze", "unfreeze_epoch", "frozen_layers")
PRUNED = ("shapes", "weights")  # settings of a pruned network, which the pretrained one does not have


def stages(settings: Mapping[str, Any]) -> int:
    """Return the number of stages: 0 for a network without pretrained weights, or one that is trained as such.

    Raises:
        ConfigurationError: another number is set.
    """
    if not settings["network"].get("pretrained") or "transfer" not in settings:
        return 0
    count = settings["transfer"]["stages"]
    if count not in (0, 1, 2):
        raise ConfigurationError(f"transfer.stages is {count!r}: write 0, 1 or 2")
    return int(count)


def origin(settings: Mapping[str, Any], data: PreparedDataset) -> dict[str, str] | None:
    """Return name, source, licence and SHA-256 of the pretrained weights; None without such weights.

    Raises:
        ConfigurationError: their file is missing or damaged.
    """
    if not settings["network"].get("pretrained"):
        return None
    try:
        return dataclasses.asdict(pretrained.origin(settings["network"], lambda: _network(settings, data)))
    except pretrained.PretrainedError as error:
        raise ConfigurationError(str(error)) from error


def frozen_features(
    settings: Mapping[str, Any],
    weights: Mapping[str, str],
    data: PreparedDataset,
    rows: Rows,
    preprocess: PreprocessSpec,
    console: Console,
) -> Features:
    """Return the features (N, D) of images under the pretrained network of the settings, from the cache or computed."""
    use_all_cores()
    return features(_network(settings, data), feature_key(settings, weights), data, rows, preprocess, console)


def _network(settings: Mapping[str, Any], data: PreparedDataset) -> Network:
    """Return the network of the settings for the images and the classes of a data set, with its pretrained weights."""
    node = settings["network"]
    if node.get("shapes"):
        node = {name: value for name, value in node.items() if name not in PRUNED}
    return build(node, len(data.classes), 3 if data.colour == "rgb" else 1, data.image_size)


def feature_key(settings: Mapping[str, Any], weights: Mapping[str, str]) -> dict[str, Any]:
    """Return all that identifies the frozen network of the settings and its weights, as `features` takes it."""
    node = {name: value for name, value in settings["network"].items() if name not in NOT_IN_FEATURES}
    return {**weights, "network": node}


def linear_head(
    settings: Mapping[str, Any],
    weights: Mapping[str, str],
    data: PreparedDataset,
    split: Split,
    preprocess: PreprocessSpec,
    say: Callable[[str], None],
) -> head.Head:
    """Return the head that fits the training images, its regularisation chosen on the validation images.

    It is kept beside the features: the second stage begins with the very head that the first one served.
    """
    start = time.perf_counter()
    rows = np.concatenate([split.train, split.validation])
    values = frozen_features(settings, weights, data, rows, preprocess, plain_console())
    say(f"{weights['name']}: features of {len(rows):,} images after {time.perf_counter() - start:.1f} s")
    start, labels = time.perf_counter(), np.asarray(data.labels)
    count = len(split.train)
    balanced = settings["trainer"].get("class_weights", "none") == "balanced"
    validation = values[count:], labels[split.validation]
    train = values[:count], labels[split.train], len(data.classes)
    fitted = head.fit_once(FOLDER, *train, validation, balanced=balanced, say=say)
    say(f"linear head with regularisation {fitted.strength:g} after {time.perf_counter() - start:.1f} s")
    if stages(settings) == 2:
        curve = learning_curve(*train, validation, strength=fitted.strength, balanced=balanced, say=say)
        if curve is not None:
            say(curve.line())
    return fitted
