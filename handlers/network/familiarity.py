"""How near an image is to the training images: a bank of them travels with the weights, as `familiarity.bin`.

The distance of an image is that of its embedding to its nearest neighbour among the training images of the bank: one
minus the mean of two products. One is the cosine between projections on discriminant directions, in which the classes
differ: it separates a new class from the known ones. The other is between projections on the principal directions of
the training images, divided by the length of the whole embedding: it separates an image of another kind, which has
little in these directions. The familiarity of an image is the share of the validation images that are at least as far
from theirs; 95 % of those are familiar, with `handlers.requests.labels.LEAST_FAMILIAR` or more.
"""

import bisect
import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from handlers.errors import ArtifactError
from handlers.network import array_file

LARGEST = 1_000_000  # bytes of the file
KINDS = (np.float16, np.float32, np.float32, np.int8)  # of the arrays of the file
STEPS = 100  # the quantiles of the validation images' distances are STEPS + 1


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Familiarity:
    """Projections of embeddings, and the bank of training images in them.

    Args:
        directions: float16 (D, d + p), of an embedding of D numbers: d discriminant and p principal directions.
        offset: float32 (d,), to subtract after the projection on the discriminant directions.
        scale: float32 (d + p,), of a step of the bank.
        bank: int8 (N, d + p), `coordinates` of a training image a row, in steps of `scale`.
        quantiles: of the distances of validation images, from the least to the largest.
    """

    directions: torch.Tensor
    offset: torch.Tensor
    scale: torch.Tensor
    bank: torch.Tensor
    quantiles: tuple[float, ...]
    _projection: torch.Tensor = dataclasses.field(init=False)
    _shift: torch.Tensor = dataclasses.field(init=False)
    _neighbours: torch.Tensor = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_projection", self.directions.float())
        object.__setattr__(self, "_shift", functional.pad(-self.offset, (0, len(self.scale) - len(self.offset))))
        object.__setattr__(self, "_neighbours", (self.bank * self.scale / 2).T.contiguous())

    @property
    def width(self) -> int:
        """Return the length of an embedding."""
        return len(self.directions)

    def coordinates(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return (B, d + p), with two parts, of embeddings (B, D)."""
        # Few operations and in place: each costs a request some microseconds. An embedding of zeros gives no number.
        projected, count = torch.addmm(self._shift, embeddings, self._projection), len(self.offset)
        discriminant, principal = projected[:, :count], projected[:, count:]
        discriminant.div_(torch.linalg.vector_norm(discriminant, dim=1, keepdim=True))
        principal.div_(torch.linalg.vector_norm(embeddings, dim=1, keepdim=True))
        return projected

    def distances(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the distance (B,) of each of the embeddings (B, D), both float32 on the CPU."""
        return 1 - self._similarities(embeddings)

    def _similarities(self, embeddings: torch.Tensor) -> torch.Tensor:
        return (self.coordinates(embeddings) @ self._neighbours).amax(dim=1)

    def values(self, embeddings: torch.Tensor) -> list[float]:
        """Return the familiarity of each of the embeddings (B, D), float32 on the CPU."""
        return [self.share_beyond(1 - similarity) for similarity in self._similarities(embeddings).tolist()]

    def share_beyond(self, distance: float) -> float:
        """Return the share of validation images that are at least as far, from 0 to 1; 0 for no number."""
        if math.isnan(distance):
            return 0.0
        place = bisect.bisect_left(self.quantiles, distance)
        if place in (0, len(self.quantiles)):
            return 1.0 if place == 0 else 0.0
        below, above = self.quantiles[place - 1], self.quantiles[place]
        return (STEPS - (place - 1 + (distance - below) / (above - below))) / STEPS

    def write(self, path: Path) -> None:
        """Write the arrays in the order of the arguments (see `handlers.network.array_file`)."""
        arrays = (self.directions, self.offset, self.scale, self.bank)
        array_file.write(path, {"quantiles": self.quantiles}, [array.numpy() for array in arrays])

    @classmethod
    def read(cls, path: Path) -> "Familiarity":
        """Return what `write` wrote.

        Raises:
            ArtifactError: the file is damaged.
        """
        try:
            about, arrays = array_file.parse(path.read_bytes(), KINDS)
            quantiles = tuple(float(value) for value in about["quantiles"])
            if len(quantiles) != STEPS + 1:
                raise ValueError(f"{len(quantiles)} quantiles")
            directions, offset, scale, bank = map(torch.from_numpy, arrays)
            return cls(directions, offset, scale, bank, quantiles)
        except (*array_file.DAMAGE, RuntimeError) as error:
            raise ArtifactError(f"{path} is damaged; export the model again") from error
