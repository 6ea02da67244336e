"""The reference for drift: `drift.bin` describes the validation images, beside the weights.

A row is one validation image. Its embedding is projected on the principal directions of the training images and
whitened: a direction counts by how unusual a move along it is. Directions of small variance count less, since their
variance is known least. The directions are not fitted on the rows: rows that fit them better than fresh images would
differ from each window.
"""

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from handlers.errors import ArtifactError
from handlers.network import array_file

LARGEST = 200_000  # bytes of the file
DIRECTIONS = 64
LEAST_ROWS, ROWS = 100, 500
# Of the arrays of the file.
KINDS = (
    *(np.int8, np.float32, np.float32),  # of the projection
    *(np.int8, np.float32),  # of the rows
    *(np.float32, np.float32, np.int32, np.int32),  # beside the rows
)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The projection of embeddings, and N validation images.

    Args:
        directions: int8 (D, d), of an embedding of D numbers, in steps of `scale` (d,).
        scale: float32 (d,).
        offset: float32 (d,), to subtract after the projection.
        embeddings: int8 (N, d), projected, in steps of `step` (d,).
        step: float32 (d,).
        statistics: float32 (N, S), the columns of `handlers.observation.statistics.Statistics`.
        confidences: float32 (N,), of the first class.
        answers: int32 (N,), the places of the first class among the classes.
        labels: int32 (N,), the places of the true classes.
    """

    directions: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.int8]
    step: npt.NDArray[np.float32]
    statistics: npt.NDArray[np.float32]
    confidences: npt.NDArray[np.float32]
    answers: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        """Return the length of an embedding."""
        return len(self.directions)

    @property
    def rows(self) -> npt.NDArray[np.float32]:
        """Return the projected embeddings of the validation images, float32 (N, d)."""
        return self.embeddings * self.step

    def write(self, path: Path) -> None:
        """Write the arrays in the order of the arguments (see `handlers.network.array_file`)."""
        arrays = [getattr(self, field.name) for field in dataclasses.fields(self)]
        array_file.write(path, {}, arrays)

    @classmethod
    def read(cls, path: Path) -> "Reference":
        """Return the reference that `write` wrote.

        Raises:
            ArtifactError: the file is damaged.
        """
        return cls.parse(path.read_bytes(), str(path))

    @classmethod
    def parse(cls, content: bytes, name: str) -> "Reference":
        """Return the reference in the bytes of a file of that name.

        Raises:
            ArtifactError: they are damaged.
        """
        try:
            _, arrays = array_file.parse(content, KINDS)
            reference = cls(*arrays)
            count, width = reference.embeddings.shape
            if {len(array) for array in arrays[5:]} != {count} or {len(array) for array in arrays[1:3]} != {width}:
                raise ValueError("the lengths of the arrays differ")
            return reference
        except array_file.DAMAGE as error:
            raise ArtifactError(f"{name} is damaged; export the model again") from error
