"""Occlusion: how much the score of a class falls where a part of the image is hidden (Zeiler and Fergus 2013).

It asks the network only for answers: any network can be explained so, in any precision, by many runs of it.
"""

from collections.abc import Callable, Sequence

import torch

GRID = 8  # places in a row and in a column of the map
WINDOW = 2  # places that a hidden square is wide

Scores = Callable[[Sequence[torch.Tensor]], torch.Tensor]


def falls(image: torch.Tensor, scores: Scores, fill: torch.Tensor) -> torch.Tensor:
    """Return how much the score falls with a square around each place hidden, float32 (GRID, GRID).

    Args:
        image: uint8 (C, S, S).
        scores: of a class, (B,), for images.
        fill: uint8 (C,), the colour of the square.
    """
    hidden = [_hidden(image, row, column, fill) for row in range(GRID) for column in range(GRID)]
    whole, *others = scores([image, *hidden]).tolist()
    return torch.tensor([whole - score for score in others]).reshape(GRID, GRID)


def _hidden(image: torch.Tensor, row: int, column: int, fill: torch.Tensor) -> torch.Tensor:
    hidden, step = image.clone(), image.shape[-1] / GRID
    rows, columns = (
        slice(max(0, round((place + (1 - WINDOW) / 2) * step)), round((place + (1 + WINDOW) / 2) * step))
        for place in (row, column)
    )
    hidden[:, rows, columns] = fill[:, None, None]
    return hidden
