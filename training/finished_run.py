"""A run that was trained to its end, for another run that starts from its network or learns from it.

torch is not imported here.
"""

import dataclasses
import zipfile
from pathlib import Path
from typing import Self

from handlers import naming
from handlers.run_folder import RunFolder
from handlers.spec import Spec
from training import configuration
from training.configuration import ConfigurationError
from training.data import splits
from training.data.records import DatasetError
from training.data.store import PreparedDataset
from training.transfer.pretrained import sha256


@dataclasses.dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run that was trained to its end; `sha256` is that of model.pt."""

    name: str
    files: RunFolder
    spec: Spec
    sha256: str

    @classmethod
    def open(cls, name: str) -> Self:
        """Read the run of that name.

        Raises:
            ConfigurationError: no run can have that name, or it is missing, unfinished or damaged.
        """
        if fault := naming.fault_of_run(name):
            raise ConfigurationError(fault)
        files = RunFolder.of(name)
        dataset = configuration.load(files.path).dataset.name
        if not (files.training.is_file() and files.model.is_file()):
            command = f"make train NAME={name} DATASET={dataset}"
            raise ConfigurationError(f"{files.path} is not trained to its end: {command}")
        return cls(name, files, _spec_inside(files.model, name), sha256(files.model))


def check_data(model: Path, spec: Spec, data: PreparedDataset) -> None:
    """Raise an error unless an artifact was trained on this very data set, split as it is now.

    Raises:
        DatasetError: it was not: its training images may be among the test images here.
    """
    if spec.provenance.get("fingerprint") != data.fingerprint:
        raise DatasetError(f"{data.folder} is not the data that {model} was trained on: train it again")
    if spec.provenance.get("split_format") != splits.FORMAT:
        raise DatasetError(
            f"{model} was trained by an older release, which split the images otherwise: some of those here to test on "
            "may be among those that it was trained on. Train it again"
        )


def _spec_inside(model: Path, name: str) -> Spec:
    """Return the spec inside an artifact, which is a zip file."""
    try:
        with zipfile.ZipFile(model) as file:
            (entry,) = [name for name in file.namelist() if name.endswith("extra/spec.json")]
            return Spec.from_json(file.read(entry).decode())
    except (zipfile.BadZipFile, ValueError) as error:
        command = f"python -m training.export name={name}"
        raise ConfigurationError(f"{model} holds no spec.json that can be read ({error}): {command}") from error
