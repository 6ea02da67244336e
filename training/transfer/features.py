"""Features of the frozen network for prepared images, computed once and kept in data/features/<key>.sqlite.

A feature is found by the digest of its image's encoded bytes, so that an image that moves to another row, split or data
set keeps it: after a class is added, only its own images are computed. The key is a hash of all else that changes one.
"""

import contextlib
import itertools
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from handlers.network.engine import Engine, traced
from handlers.preprocessing import Preprocess
from handlers.spec import PreprocessSpec
from training.data.loaders import ordered_images
from training.data.progress import progress
from training.data.recipe import digest
from training.data.splits import Rows
from training.data.store import PreparedDataset
from training.networks import Network

FOLDER = Path("data/features")
BATCH = 16  # images; of more, the activations do not fit in a core's cache
COMMIT = 8  # batches that a killed process loses at most, and after which progress is shown

Features = npt.NDArray[np.float32]


class FeatureCache:
    """Features (D,) by the digest of an image's bytes, in float16."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._base = sqlite3.connect(path, timeout=60)
        self._base.execute("CREATE TABLE IF NOT EXISTS features (sha256 BLOB PRIMARY KEY, value BLOB NOT NULL)")

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def missing(self, digests: Sequence[bytes]) -> list[int]:
        """Return the positions of the digests that have no feature yet."""
        with contextlib.closing(self._base.cursor()) as cursor:
            return [
                position
                for position, sha256 in enumerate(digests)
                if cursor.execute("SELECT 1 FROM features WHERE sha256 = ?", (sha256,)).fetchone() is None
            ]

    def add(self, digests: Sequence[bytes], values: Features) -> None:
        """Keep features in one transaction."""
        rows = zip(digests, (value.tobytes() for value in values.astype(np.float16)), strict=True)
        with self._base:
            self._base.executemany("INSERT OR IGNORE INTO features VALUES (?, ?)", rows)

    def take(self, digests: Sequence[bytes], width: int) -> Features:
        """Return the features of digests that are all there, float32 (N, width)."""
        values = np.empty((len(digests), width), np.float32)
        for position, sha256 in enumerate(digests):
            (blob,) = self._base.execute("SELECT value FROM features WHERE sha256 = ?", (sha256,)).fetchone()
            values[position] = np.frombuffer(blob, np.float16)
        return values


def features(
    network: Network,
    weights: Mapping[str, Any],
    data: PreparedDataset,
    rows: Rows,
    preprocess: PreprocessSpec,
    console: Console,
    folder: Path = FOLDER,
) -> Features:
    """Return the embeddings (N, D) of prepared images, float32 and rounded to float16.

    Args:
        network: in evaluation mode, with pretrained weights.
        weights: all that identifies the network and its weights, as a JSON-like document.
        rows: of the data set, N of them.
    """
    pixels = data.document.get("made", data.key)
    key = digest({"weights": weights, "made": pixels, "mean": preprocess.mean, "std": preprocess.std})
    cache = FeatureCache(folder / f"{key}.sqlite")
    with contextlib.closing(cache):
        digests = data.digests(rows)
        absent = cache.missing(digests)
        if absent:
            with progress(console, "features", len(absent)) as advance:
                for positions, values in _computed(network, data, rows, absent, preprocess):
                    cache.add([digests[position] for position in positions], values)
                    advance(len(positions))
        return cache.take(digests, network.head.in_features)


def _computed(
    network: Network, data: PreparedDataset, rows: Rows, positions: Sequence[int], preprocess: PreprocessSpec
) -> Iterator[tuple[Sequence[int], Features]]:
    """Yield positions and the features of their rows, `COMMIT` batches at a time."""
    batches = outputs(traced(_Embedding(network.eval()), preprocess.shape), data, rows[list(positions)], preprocess)
    for start in range(0, len(positions), COMMIT * BATCH):
        values = torch.cat(list(itertools.islice(batches, COMMIT)))
        yield positions[start : start + len(values)], values.numpy()


def outputs(engine: Engine, data: PreparedDataset, rows: Rows, preprocess: PreprocessSpec) -> Iterator[torch.Tensor]:
    """Yield the outputs of an engine for prepared images, those of `BATCH` images at a time."""
    pixels_of = Preprocess(preprocess)
    for pixels in ordered_images(data, rows, BATCH):
        inputs = engine.buffer(len(pixels))
        pixels_of.write(list(pixels), list(inputs[: len(pixels)]))
        yield engine(inputs)[: len(pixels)]


class _Embedding(torch.nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network.embedding(x)
