"""The run whose network teaches a student: it is finished, has the same classes, and has not seen the test images.

torch is not imported here.
"""

import copy
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from training import configuration
from training.configuration import ConfigurationError
from training.data.records import DatasetError
from training.data.splits import Split, SplitSpec
from training.data.store import PreparedDataset
from training.finished_run import FinishedRun, check_data


def with_digest(config: DictConfig, data: PreparedDataset) -> DictConfig:
    """Return the configuration with the SHA-256 of the teacher's network, if it names a teacher.

    Raises:
        ConfigurationError: the teacher cannot teach on these images, or a setting of the distillation is impossible.
    """
    name = config.get("teacher")
    if name is None:
        return config
    if str(name) == str(config.name):
        raise ConfigurationError(f"teacher={name} is the run itself: give the run another name")
    if config.network.get("pretrained") and config.transfer.stages == 1:
        raise ConfigurationError("a linear head has no epochs to learn from a teacher in: set transfer.stages=2")
    _check_numbers(config.distillation)
    teacher = FinishedRun.open(str(name))
    if set(teacher.spec.classes) != set(data.classes):
        missing = sorted(set(teacher.spec.classes) ^ set(data.classes))
        raise ConfigurationError(
            f"teacher={name} has {len(teacher.spec.classes)} classes and {data.folder} has {len(data.classes)}; only "
            f"one of them has {missing[0]!r}: choose a teacher that was trained on the same classes"
        )
    if teacher.spec.preprocess.colour != data.colour:
        raise ConfigurationError(
            f"teacher={name} takes {teacher.spec.preprocess.colour} images and {data.folder} has {data.colour} ones: "
            f"set dataset.colour={teacher.spec.preprocess.colour}, and prepare the data set again"
        )
    config = copy.deepcopy(config)
    OmegaConf.update(config, "distillation.sha256", teacher.sha256, force_add=True)
    return config


def _check_numbers(distillation: Mapping[str, Any]) -> None:
    weight, temperature = distillation["weight"], distillation["temperature"]
    if type(weight) not in (int, float) or not 0 < weight <= 1:
        raise ConfigurationError(f"distillation.weight is {weight!r}: write a number above 0, and at most 1")
    if type(temperature) not in (int, float) or not temperature > 0:
        raise ConfigurationError(f"distillation.temperature is {temperature!r}: write a number above 0")


def check_test_images(settings: Mapping[str, Any], data: PreparedDataset, split: Split) -> str | None:
    """Return a warning if it is unknown whether the teacher trained on test images of this run; None if it did not.

    Raises:
        ConfigurationError: it did: the student's test score would be too high.
        DatasetError: its prepared data set has changed since.
    """
    name = settings.get("teacher")
    if name is None:
        return None
    teacher = FinishedRun.open(name)
    config = configuration.load(teacher.files.path)
    try:
        store = PreparedDataset.open(configuration.store_folder(config))
        rows = store.split(SplitSpec.from_config(configuration.plain(config)["split"])).train
    except (DatasetError, ValueError) as error:
        return f"warning: whether teacher={name} has seen test images of this run is unknown: {error}"
    check_data(teacher.files.model, teacher.spec, store)
    common = len(set(store.digests(rows)) & set(data.digests(split.test)))
    if common:
        raise ConfigurationError(
            f"teacher={name} was trained on {common:,} of the {len(split.test):,} test images here, which would make "
            "the student's test score too high: train both with the same settings of split"
        )
    return None


def record(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return name and SHA-256 of the teacher, with weight and temperature; None without a teacher."""
    return {"run": settings["teacher"], **settings["distillation"]} if settings.get("teacher") is not None else None
