"""Images that occur twice: encoded again, resized, mirrored, or photographed a moment later.

Each image is compared with those on other sides of the split, and then with those before it on its own side: by
signature, by the signature of its mirror image, and by features. These are 5 billion comparisons for 100,000 images, as
matrix products of blocks. Only the most similar image counts, so no more pairs are reported than there
are images, and one image of each group is not reported.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from training.data.progress import progress
from training.data.splits import Rows
from training.inspection.findings import ALIKE, COPY, MIRRORED
from training.inspection.measures import mirrored

ROWS, COLUMNS = 1024, 8192  # of a block
# Chosen on Places365: of 400 copies, with JPEG qualities from 30 to 90 and sizes from 0.4 to 1.6, the least similar is
# at 0.98, and of 7,885 photographs the most similar two different ones are at 0.89.
SAME = 0.94
# Features of one moment are at 0.91 there, others at 0.87. Sets of one kind of subject are more alike: a near-duplicate
# is also this many deviations more similar than the median of all images is to its closest, and has a similar layout.
ALIKE_FEATURES, DEVIATIONS, ALIKE_LAYOUT = 0.9, 3.0, 0.4
NOTHING = -2.0  # less than any similarity

Values = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """An image, a most similar one, and their similarity, at most 1; `kind` is an issue."""

    row: int
    other: int
    kind: str
    similarity: float


@dataclasses.dataclass(frozen=True, slots=True)
class Closest:
    """The most similar image for each of B: similarity of features, signatures and mirrored ones, and its place."""

    features: torch.Tensor
    features_place: torch.Tensor
    layout: torch.Tensor  # of the image with the most similar features
    plain: torch.Tensor
    plain_place: torch.Tensor
    mirror: torch.Tensor
    mirror_place: torch.Tensor


def pairs(signatures: Values, features: Values, sides: Rows, console: Console) -> list[Pair]:
    """Return the pairs among N images, for each image at most one; one on another side of the split comes first.

    Args:
        signatures: (N, D).
        features: (N, F).
        sides: (N,), a number for each side; of a pair on two sides, the image on the higher one is `row`.
    """
    order = np.argsort(sides, kind="stable")
    compared = _Compared(signatures[order], features[order])
    sides = sides[order]
    blocks: list[tuple[int, Closest, Closest]] = []
    with progress(console, "comparing", len(order)) as advance:
        for side in np.unique(sides):
            first, end = np.searchsorted(sides, [side, side + 1]).tolist()
            for start in range(first, end, ROWS):
                rows = slice(start, min(start + ROWS, end))
                blocks.append((start, compared.closest(rows, 0, first), compared.closest(rows, first, rows.stop)))
                advance(rows.stop - start)
    limit = _limit(torch.cat([torch.maximum(across.features, own.features) for _, across, own in blocks]))
    result = []
    for start, across, own in blocks:
        for place in range(len(own.plain)):
            for kind, other, similarity in (*_match(across, place, limit), *_match(own, place, limit)):
                result.append(Pair(int(order[start + place]), int(order[other]), kind, min(similarity, 1.0)))
                break
    return result


class _Compared:
    """Signatures and features of all images, in the order in which they are compared; it takes the arrays over."""

    def __init__(self, signatures: Values, features: Values) -> None:
        self._waves = torch.from_numpy(signatures)
        self._mirrored = mirrored(self._waves)
        self._features = torch.from_numpy(features)
        self._features /= self._features.norm(dim=1, keepdim=True).clamp_(min=1e-12)

    def closest(self, rows: slice, first: int, end: int) -> Closest:
        """Return, for the images in `rows`, the closest of those from `first` to `end` that are before each."""
        waves, mirror = self._waves[rows], self._mirrored[rows]
        features, place = _closest(self._features[rows], self._features, rows.start, first, end)
        layout = torch.maximum((waves * self._waves[place]).sum(dim=1), (mirror * self._waves[place]).sum(dim=1))
        plain = _closest(waves, self._waves, rows.start, first, end)
        return Closest(features, place, layout, *plain, *_closest(mirror, self._waves, rows.start, first, end))


def _closest(
    block: torch.Tensor, vectors: torch.Tensor, start: int, first: int, end: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the similarity and the place of the closest vector from `first` to `end`, before each of the block's."""
    values, places = torch.full((len(block),), NOTHING), torch.zeros(len(block), dtype=torch.int64)
    own = start + torch.arange(len(block))
    for left in range(first, end, COLUMNS):
        part = vectors[left : min(left + COLUMNS, end)]
        similar = block @ part.T
        if left + len(part) > start:
            similar.masked_fill_(left + torch.arange(len(part)) >= own[:, None], NOTHING)
        value, place = similar.max(dim=1)
        places = torch.where(value > values, left + place, places)
        values = torch.maximum(value, values)
    return values, places


def _limit(similarities: torch.Tensor) -> float:
    """Return how similar the features of near-duplicates are, by the similarities of all images to their closest."""
    compared = similarities[similarities > NOTHING]
    if not len(compared):
        return ALIKE_FEATURES
    median = compared.median()
    deviation = 1.4826 * (compared - median).abs().median()
    return max(ALIKE_FEATURES, float(median + DEVIATIONS * deviation))


def _match(closest: Closest, place: int, limit: float) -> Iterator[tuple[str, int, float]]:
    """Yield kind, place of the other image and similarity, if one of the closest images is a copy or alike."""
    plain, mirror = float(closest.plain[place]), float(closest.mirror[place])
    if max(plain, mirror) >= SAME:
        if plain >= mirror:
            yield COPY, int(closest.plain_place[place]), plain
        else:
            yield MIRRORED, int(closest.mirror_place[place]), mirror
    elif closest.features[place] >= limit and closest.layout[place] >= ALIKE_LAYOUT:
        yield ALIKE, int(closest.features_place[place]), float(closest.features[place])


def groups(pairs: list[Pair], count: int) -> Rows:
    """Return a number for each of `count` images, the same for all that pairs connect."""
    parents = list(range(count))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for pair in pairs:
        parents[root(pair.row)] = root(pair.other)
    return np.array([root(row) for row in range(count)], np.int64)
