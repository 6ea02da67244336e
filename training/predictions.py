"""A model's answers to a list of images, and the file that keeps them: enough to ask a server the same again."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.console import Console

from handlers import atomic
from handlers.errors import ArtifactError
from handlers.images.limits import UNLIMITED
from handlers.lookahead import map_ahead
from handlers.run_folder import RunFolder
from training.configuration import ConfigurationError
from training.data.progress import progress
from training.data.records import DatasetError, Record

if TYPE_CHECKING:
    import torch

    from handlers.classifier import Classifier


@dataclasses.dataclass(frozen=True, slots=True)
class Predictions:
    """Answers to N images: `probabilities` float32 (N, K), `labels` int64 (N,) with -1 for no label.

    `temperatures` float64 (N,) are those of the networks that answered: with several folds, of several.
    The bytes of image n are those of `paths[n]` below the folder `raw`, `lengths[n]` of them from `offsets[n]` on; a
    length of -1 is the whole file.
    """

    probabilities: npt.NDArray[np.float32]
    temperatures: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.str_]
    paths: npt.NDArray[np.str_]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    raw: Path

    @classmethod
    def of(
        cls,
        probabilities: npt.NDArray[np.float32],
        temperature: float,
        labels: npt.NDArray[np.int64],
        records: Sequence[Record],
        raw: Path,
    ) -> "Predictions":
        """Put answers and the records that they answer side by side."""
        return cls(
            probabilities=probabilities,
            temperatures=np.full(len(probabilities), temperature),
            labels=np.asarray(labels, dtype=np.int64),
            ids=np.array([record.id for record in records], dtype=np.str_),
            paths=np.array([record.path for record in records], dtype=np.str_),
            offsets=np.array([record.offset for record in records], dtype=np.int64),
            lengths=np.array([-1 if record.length is None else record.length for record in records], dtype=np.int64),
            raw=raw.resolve(),
        )

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read what `save` wrote.

        Raises:
            DatasetError: there is no such file.
        """
        if not path.is_file():
            raise DatasetError(f"{path} does not exist: evaluate first (make evaluate NAME={path.parents[1].name})")
        with np.load(path) as file:
            arrays = {field.name: file[field.name] for field in dataclasses.fields(cls) if field.name in file}
        # Older networks have no temperature, which is a temperature of 1.
        arrays.setdefault("temperatures", np.ones(len(arrays["labels"])))
        return cls(**{**arrays, "raw": Path(str(arrays["raw"]))})

    def records(self) -> list[Record]:
        """Return where the bytes of the images are."""
        places = zip(self.ids, self.paths, self.offsets, self.lengths, strict=True)
        return [
            Record(str(name), "test", None, str(path), int(offset), None if length < 0 else int(length))
            for name, path, offset, length in places
        ]

    def images(self) -> Iterator[bytes]:
        """Yield the encoded images.

        Raises:
            DatasetError: a file is gone.
        """
        for record in self.records():
            try:
                image = record.read(self.raw)
            except OSError as error:
                path = self.raw / record.path
                raise DatasetError(f"{path} cannot be read any more: evaluate again where the images are") from error
            yield image

    def save(self, path: Path) -> None:
        """Write a `.npz` file, whole or not at all."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        with atomic.replacing(path) as part:
            np.savez_compressed(part, **{**arrays, "raw": np.array(str(self.raw))})


def open_classifier(run: Path, precision: str = "fp32") -> "Classifier":
    """Load a run's artifact as a worker would, on the CPU.

    Raises:
        ConfigurationError: the file is no artifact.
    """
    from handlers.classifier import Classifier  # brings torch

    try:  # without limits: the data set has its own
        return Classifier(RunFolder(run).model, device="cpu", precision=precision, limits=UNLIMITED)
    except ArtifactError as error:
        raise ConfigurationError(str(error)) from error


def predict(
    classifier: "Classifier", records: Sequence[Record], raw: Path, *, batch: int, console: Console
) -> npt.NDArray[np.float32]:
    """Return probabilities (N, K) of N images from their encoded bytes; a batch is decoded while the last is answered.

    Raises:
        DatasetError: the bytes of an image have gone or changed since they were prepared.
    """
    parts = [records[start : start + batch] for start in range(0, len(records), batch)]
    answers = []
    with ThreadPoolExecutor(1) as pool, progress(console, "evaluating", len(records)) as advance:
        for images in map_ahead(pool, lambda part: decode(classifier, part, raw), parts, 1):
            answers.append(classifier.predict(images).cpu().numpy())
            advance(len(images))
    return np.concatenate(answers).astype(np.float32)


def decode(classifier: "Classifier", records: Sequence[Record], raw: Path) -> "list[torch.Tensor]":
    """Return images uint8 (C, S, S) as the network gets them.

    Raises:
        DatasetError: the bytes of an image have gone or changed since they were prepared.
    """
    try:
        images_or_errors = classifier.decode([record.read(raw) for record in records])
    except OSError as error:
        raise DatasetError(f"{error.filename}: {error.strerror}. Put it back, or prepare the data set again") from error
    images = []
    for record, image in zip(records, images_or_errors, strict=True):
        if isinstance(image, Exception):
            raise DatasetError(f"{raw / record.path}: {image}. It has changed: prepare the data set again")
        images.append(image)
    return images
