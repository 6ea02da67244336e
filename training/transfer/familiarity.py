"""Make the bank of training images by which a served image is familiar or not: `familiarity.bin` of a run.

An embedding is projected on discriminant directions, in which the classes differ most for how much the images of a
class differ, and on principal directions of the training images. A row of the bank then takes 32 bytes, so that all
training images of a small data set are in it, and the same number of each class of a large one. A server reads all of
it for each batch: few directions are what makes it cheap.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg

from handlers.errors import ArtifactError
from handlers.network import torchscript
from handlers.network.engine import Engine, optimized
from handlers.network.familiarity import LARGEST, STEPS, Familiarity
from handlers.spec import FAMILIARITY, PreprocessSpec
from training.data.progress import plain_console
from training.data.splits import Rows, Split
from training.data.store import PreparedDataset
from training.transfer.features import BATCH, features, outputs

BANK = 2048  # training images
VALIDATION = 2048  # images that set the threshold, at most
LEAST_VALIDATION = 20  # images: with fewer, none of them may be unfamiliar
# Chosen on left-out species of petals, and on petals and Places365 against each other; see benchmarks/familiarity.py.
COMPONENTS = 256  # of the embeddings, on which the discriminants are computed
DIRECTIONS = 16  # of each kind
RIDGE = 0.1  # of the mean variance within classes, added to each component's
TOLERANCE = 1e-3  # of a logit

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Embeddings:
    """Embeddings of training images (N, D) with labels (N,), and of the validation images (M, D) in `rows`.

    `places` (M,) are those of `rows` among the rows of the validation split.
    """

    train: npt.NDArray[np.float32]
    labels: Rows
    validation: npt.NDArray[np.float32]
    rows: Rows
    places: Rows


def embed(
    artifact: Path,
    network: Any,
    data: PreparedDataset,
    split: Split,
    logits: torch.Tensor,
    frozen: Mapping[str, Any] | None,
) -> Embeddings | str:
    """Return the embeddings of up to `BANK` training and `VALIDATION` validation images, or why there are none.

    Args:
        artifact: a network in TorchScript, which computes embeddings as a server does.
        network: the one that was exported.
        data: the prepared images.
        split: its rows.
        logits: (N, K), of the network for the validation images.
        frozen: what identifies the pretrained network, if only the head was trained: its features are cached.
    """
    if len(split.validation) < LEAST_VALIDATION:
        return f"there are {len(split.validation)} validation images: a threshold needs {LEAST_VALIDATION}"
    labels = np.asarray(data.labels)
    bank_rows = evenly(split.train, labels[split.train], BANK)
    try:
        engine, spec = _engine(artifact)
        if not _same_logits(engine, data, split.validation[:BATCH], spec, logits):
            return "the logits of the network are not those of its head for its embedding"
    except ArtifactError as error:
        return str(error)
    places = np.arange(0, len(split.validation), -(-len(split.validation) // VALIDATION))
    validation_rows = split.validation[places]
    rows = np.concatenate([bank_rows, validation_rows])
    if frozen is not None:
        embeddings = features(network, frozen, data, rows, spec, plain_console())
    else:
        embeddings = _outputs(engine, data, rows, spec)[:, logits.shape[1] :].numpy()
    train, validation = np.split(embeddings, [len(bank_rows)])
    return Embeddings(train, labels[bank_rows], validation, validation_rows, places)


def write(artifact: Path, embeddings: Embeddings | str) -> dict[str, Any]:
    """Write the file beside an artifact; return its size and threshold, or why there is none."""
    if isinstance(embeddings, str):
        return {"why": embeddings}
    bank = bank_of(embeddings.train, embeddings.labels, embeddings.validation)
    path = artifact.with_name(FAMILIARITY)
    bank.write(path)
    return {
        "images": len(embeddings.train),
        "validation": len(embeddings.validation),
        "threshold": bank.quantiles[95],
        "bytes": path.stat().st_size,
    }


def evenly(rows: Rows, labels: Rows, limit: int) -> Rows:
    """Return up to `limit` rows, in order, of as many of each class as there are; drawn from seed 0."""
    if len(rows) <= limit:
        return rows
    order = np.random.default_rng(0).permutation(len(rows))
    of_class = labels[order]
    rank = np.empty(len(rows), np.int64)  # of a row among those of its class, in the drawn order
    for label in np.unique(labels):
        rank[of_class == label] = np.arange((of_class == label).sum())
    return np.sort(rows[order[np.argsort(rank, kind="stable")[:limit]]])


def bank_of(embeddings: npt.NDArray[np.float32], labels: Rows, validation: npt.NDArray[np.float32]) -> Familiarity:
    """Return the bank of training embeddings (N, D) with labels (N,), and quantiles of those of validation (M, D)."""
    mean = embeddings.mean(axis=0, dtype=np.float64)
    matrix = discriminants(embeddings - mean, labels)
    matrix /= np.abs(matrix).max()
    directions = torch.from_numpy(
        np.concatenate([matrix, principal(embeddings, _directions(len(matrix)))], axis=1)
    ).half()
    offset = torch.from_numpy(mean).float() @ directions[:, : matrix.shape[1]].float()
    empty = torch.zeros((1, directions.shape[1]), dtype=torch.int8)
    bank = Familiarity(directions, offset, torch.ones(directions.shape[1]), empty, (0.0,) * (STEPS + 1))
    coordinates = bank.coordinates(torch.from_numpy(embeddings)).nan_to_num()
    scale = coordinates.abs().amax(dim=0).clamp(min=1e-12) / 127
    bank = dataclasses.replace(bank, scale=scale, bank=(coordinates / scale).round().to(torch.int8))
    distances = bank.distances(torch.from_numpy(validation)).numpy()
    # At least 95 % of the images are within the 95th.
    quantiles = np.quantile(distances, np.linspace(0, 1, STEPS + 1), method="higher")
    return dataclasses.replace(bank, quantiles=tuple(quantiles.tolist()))


def discriminants(centred: npt.NDArray[Any], labels: Rows) -> Array:
    """Return directions (D, k) in which the classes of centred embeddings (N, D) differ, scaled to unit variance.

    Linear discriminant analysis on the principal components; the ridge keeps directions without spread within classes
    from counting for all.
    """
    components = principal(centred, COMPONENTS)
    projected = centred @ components
    classes, index = np.unique(labels, return_inverse=True)
    means = np.stack([projected[labels == label].mean(axis=0) for label in classes])
    residual = projected - means[index]
    within, total = (part.T @ part / len(part) for part in (residual, projected))
    size = len(total)
    within += np.eye(size) * (RIDGE * np.trace(within) + 1e-3 * np.trace(total)) / size
    count = min(_directions(len(components)), size)
    _, vectors = linalg.eigh(total, within, subset_by_index=(size - count, size - 1))
    return np.asarray(components @ vectors[:, ::-1], np.float64)


def principal(embeddings: npt.NDArray[Any], count: int) -> Array:
    """Return the directions (D, c) with the largest mean squares of embeddings (N, D), c up to `count`."""
    rows = embeddings.astype(np.float64)
    wide = rows.shape[1] > len(rows)
    products = rows @ rows.T if wide else rows.T @ rows
    size = len(products)
    values, vectors = linalg.eigh(products, subset_by_index=(max(0, size - count), size - 1))
    nonzero = values > 1e-9 * values[-1]
    vectors = vectors[:, nonzero]
    return np.asarray(rows.T @ vectors / np.sqrt(values[nonzero]) if wide else vectors, np.float64)


def _directions(width: int) -> int:
    """Return the number of directions of a kind: in float16 both kinds take half of the file at most."""
    return max(1, min(DIRECTIONS, LARGEST // (8 * width)))


def _engine(artifact: Path) -> tuple[Engine, PreprocessSpec]:
    """Return the artifact with embeddings, as a server runs it in float32, and the spec of its images."""
    device, loaded = torch.device("cpu"), torchscript.load(artifact)
    module = optimized(torchscript.with_embedding(loaded.module), device, "fp32")
    spec = loaded.spec.preprocess
    return Engine(module, spec.shape, device, "fp32"), spec


def _same_logits(engine: Engine, data: PreparedDataset, rows: Rows, spec: PreprocessSpec, logits: torch.Tensor) -> bool:
    answers = _outputs(engine, data, rows, spec)[:, : logits.shape[1]]
    return torch.allclose(answers, logits[: len(rows)], rtol=TOLERANCE, atol=TOLERANCE)


def _outputs(engine: Engine, data: PreparedDataset, rows: Rows, spec: PreprocessSpec) -> torch.Tensor:
    """Return the logits and embeddings (N, K + D) of prepared images."""
    return torch.cat(list(outputs(engine, data, rows, spec)))
