"""Make the reference for drift from the validation images: `drift.bin` of a run.

The directions are the principal ones of training images, which the network may have learned by heart; they say only how
to measure. The rows that traffic is compared with are validation images, which are as fresh as the traffic.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from handlers.observation.measurements import statistics_of
from handlers.observation.reference import DIRECTIONS, LARGEST, LEAST_ROWS, ROWS, Reference
from handlers.spec import REFERENCE
from training.data.loaders import ordered_images
from training.data.splits import Rows
from training.data.store import PreparedDataset
from training.transfer.familiarity import Embeddings, principal
from training.transfer.features import BATCH

RIDGE = 0.1  # of the mean variance of the directions, added to each one's
BYTES_BESIDE = 40  # of a row, without its embedding; the line of JSON has room in it


def write(
    artifact: Path, embeddings: Embeddings | str, data: PreparedDataset, scaled_logits: torch.Tensor
) -> dict[str, Any]:
    """Write the file beside an artifact; return its size and the number of its rows, or why there is none.

    Args:
        artifact: the network.
        embeddings: of training and validation images, or why there are none.
        data: the prepared images.
        scaled_logits: (N, K), of the network for the validation images, divided by its temperature.
    """
    if isinstance(embeddings, str):
        return {"why": embeddings}
    if len(embeddings.rows) < LEAST_ROWS:
        return {"why": f"there are {len(embeddings.rows)} validation images: a reference for drift needs {LEAST_ROWS}"}
    drawn = draw(len(embeddings.rows))
    rows = embeddings.rows[drawn]
    reference = build(
        embeddings.train,
        embeddings.validation[drawn],
        np.array([row for pixels in ordered_images(data, rows, BATCH) for row in statistics_of(list(pixels))]),
        scaled_logits[torch.from_numpy(embeddings.places[drawn])],
        np.asarray(data.labels)[rows],
    )
    path = artifact.with_name(REFERENCE)
    reference.write(path)
    return {"images": len(reference), "bytes": path.stat().st_size}


def draw(count: int) -> Rows:
    """Return the places of up to `ROWS` of `count` validation images, drawn from seed 0."""
    return np.sort(np.random.default_rng(0).permutation(count)[:ROWS])


def build(
    train: npt.NDArray[np.float32],
    validation: npt.NDArray[np.float32],
    statistics: npt.NDArray[np.floating],
    scaled_logits: torch.Tensor,
    labels: Rows,
) -> Reference:
    """Return the reference of validation images (N, D), projected on directions of training images (M, D).

    `statistics` (N, S), `scaled_logits` (N, K) and `labels` (N,) are those of the validation images.
    """
    directions, scale, offset = projection(train)
    projected = validation @ (directions * scale) - offset
    step = np.maximum(np.abs(projected).max(axis=0), np.float32(1e-12)) / 127
    best = scaled_logits.softmax(dim=1).max(dim=1)
    return Reference(
        *(directions, scale, offset),
        embeddings=np.round(projected / step).astype(np.int8),
        step=step,
        statistics=statistics.astype(np.float32),
        confidences=best.values.float().numpy(),
        answers=best.indices.int().numpy(),
        labels=labels.astype(np.int32),
    )


def projection(
    embeddings: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return whitening directions int8 (D, d) of embeddings (N, D), their scale (d,) and offset (d,)."""
    mean = embeddings.mean(axis=0, dtype=np.float64)
    centred = embeddings - mean
    # A byte for each number of a direction, and for the wide embeddings of old networks fewer directions.
    most = (LARGEST - (DIRECTIONS + BYTES_BESIDE) * ROWS) // embeddings.shape[1]
    matrix = principal(centred, min(DIRECTIONS, most))
    variance = ((centred @ matrix) ** 2).mean(axis=0)
    matrix /= np.sqrt(variance + RIDGE * variance.mean())
    scale = np.abs(matrix).max(axis=0) / 127
    directions = np.round(matrix / scale)
    offset = mean @ (directions * scale)
    return directions.astype(np.int8), scale.astype(np.float32), offset.astype(np.float32)
