"""A prepared data set on disk, as training, evaluation and export read it.

    data/processed/<name>/
        dataset.json      classes, counts, mean and std, fingerprint, and the key of its inputs
        index.sqlite      every record: location of its encoded bytes, its row, or why it was left out
        labels.npy        int64 (N,), -1 where a test image has no label
        moments.npy       int64 (N, 2, C): sums of the pixel values and of their squares
        images.npy        uint8 (N, C, S, S), read by memory map; or, for sets too large to keep decoded,
        shards/           the original bytes in tar files of webdataset
        transformed/      n transformed copies of each training image, if augment=n
        left_out.csv      the files left out, and why

torch is not imported here.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.spec import Colour, Interpolation, PreprocessSpec, Resize
from training.data.index import Index
from training.data.recipe import digest
from training.data.records import DatasetError, Record
from training.data.splits import Rows, Split, SplitSpec, split

DOCUMENT = "dataset.json"
INDEX = "index.sqlite"
IMAGES = "images.npy"
LABELS = "labels.npy"
MOMENTS = "moments.npy"
LEFT_OUT = "left_out.csv"
SHARDS = "shards"
TRANSFORMED = "transformed"
SOURCES = "sources.npy"

Pixels = npt.NDArray[np.uint8]


class PreparedDataset:
    """N prepared images; a row is a number from 0 to N - 1.

    Arrays are memory maps, opened when they are first asked for. An object can be pickled: the other process opens the
    same folder again.
    """

    def __init__(self, folder: Path, document: dict[str, Any]) -> None:
        self.folder, self.document = folder, document
        self.name: str = document["name"]
        self.classes: tuple[str, ...] = tuple(document["classes"])
        self.key: str = document["key"]
        self.fingerprint: str = document["fingerprint"]
        self.image_size: int = document["image_size"]
        self.resize: Resize = document["resize"]
        self.crop_fraction: float = document["crop_fraction"]
        self.interpolation: Interpolation = document.get("interpolation", "bilinear")  # a store of an older release
        self.colour: Colour = document["colour"]
        self.encoded: bool = document["store"] == "encoded"
        self.raw = Path(document["raw"])
        self._rows: int = document["images"]

    @classmethod
    def open(cls, folder: str | Path) -> "PreparedDataset":
        """Open data/processed/<name>.

        Raises:
            DatasetError: nothing was prepared there.
        """
        folder = Path(folder)
        try:
            document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise DatasetError(
                f"{folder}: no prepared data set; make it (make data NAME={folder.name} DATASET=… RAW=…)"
            ) from None
        except ValueError as error:
            raise DatasetError(f"{folder / DOCUMENT}: not a JSON document ({error}); prepare it again") from error
        return cls(folder, document)

    def __len__(self) -> int:
        return self._rows

    def __reduce__(self) -> tuple[Callable[[Path], "PreparedDataset"], tuple[Path]]:
        return PreparedDataset.open, (self.folder,)

    @functools.cached_property
    def images(self) -> Pixels:
        """Return uint8 (N, C, S, S), a read-only memory map.

        Raises:
            DatasetError: this data set is kept encoded, in shards.
        """
        if self.encoded:
            raise DatasetError(f"{self.folder}: kept encoded, in shards; read it with EncodedBatches")
        return self._map(IMAGES)

    @functools.cached_property
    def labels(self) -> Rows:
        """Return int64 (N,): the class of each row, -1 for no label."""
        return self._map(LABELS)

    @functools.cached_property
    def on_test_side(self) -> npt.NDArray[np.bool_]:
        """Return bool (N,): whether a row is on the test side of the data set's own layout."""
        return self._index.column("split = 'test'", len(self)).astype(bool)

    def preprocess(self, mean: tuple[float, ...], std: tuple[float, ...]) -> PreprocessSpec:
        """Return the preprocessing that made these pixels, completed with mean and standard deviation."""
        return PreprocessSpec(
            image_size=self.image_size,
            resize=self.resize,
            crop_fraction=self.crop_fraction,
            interpolation=self.interpolation,
            colour=self.colour,
            mean=mean,
            std=std,
        )

    @property
    def content_key(self) -> str:
        """Return what changes with any pixel, label or row, and not with the place or the time of the raw files."""
        # A store of before this was kept has only the key, which changes with those too.
        recipe = self.document.get("made", self.key)
        return digest({"fingerprint": self.fingerprint, "made": recipe, "encoded": self.encoded})

    def record(self, row: int) -> Record:
        """Return the location of the encoded bytes of a row: `dataset.record(row).read(dataset.raw)`.

        Raises:
            IndexError: there is no such row.
        """
        return self._index.record(row)

    def sha256(self, row: int) -> bytes:
        """Return the digest of a row's encoded bytes, as they were when the data set was prepared."""
        return self._index.sha256(row)

    def digests(self, rows: Rows) -> list[bytes]:
        """Return what `sha256` returns for each of `rows`."""
        digests = self._index.digests()
        return [digests[row] for row in rows]

    @property
    def encoded_bytes(self) -> int:
        """Return the size of all images as they are on disk, in bytes."""
        return self._index.total("size")

    def split(self, spec: SplitSpec) -> Split:
        """Split the rows; transformed copies of training rows, if any, are included.

        Raises:
            ValueError: too few images for this split.
        """
        groups = self._index.groups(len(self)) if spec.by == "group" else np.full(len(self), -1, np.int64)
        twins = self._index.twins(len(self)) if spec.test != "given" else np.full(len(self), -1, np.int64)
        content = np.frombuffer(b"".join(digest[:8] for digest in self._index.digests()), "<u8")
        parts = split(spec, np.asarray(self.labels), self.on_test_side, content, twins, groups)
        copies = np.flatnonzero(np.isin(self.transformed_sources, parts.train))
        return Split(train=parts.train, validation=parts.validation, test=parts.test, transformed=copies)

    def statistics(self, rows: Rows) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation per channel, of values in [0, 1], over all pixels of these rows.

        Raises:
            ValueError: there are no rows.
        """
        return statistics(self._map(MOMENTS), rows, self.image_size**2)

    @property
    def transformed_images(self) -> Pixels:
        """Return uint8 (M, C, S, S): transformed copies of training images; M is 0 without copies."""
        shape = (0, 1 if self.colour == "grey" else 3, self.image_size, self.image_size)
        return self._map(f"{TRANSFORMED}/{IMAGES}") if self._has_copies else np.empty(shape, np.uint8)

    @property
    def transformed_key(self) -> str | None:
        """Return the document of the transformed copies, or None without copies."""
        path = self.folder / TRANSFORMED / "transformed.json"
        return str(json.loads(path.read_text(encoding="utf-8"))["key"]) if self._has_copies else None

    @property
    def transformed_sources(self) -> Rows:
        """Return int64 (M,): the row that each transformed copy was made from."""
        return self._map(f"{TRANSFORMED}/{SOURCES}") if self._has_copies else np.empty(0, np.int64)

    @property
    def transformed_labels(self) -> Rows:
        """Return int64 (M,): the class of each transformed copy."""
        return np.asarray(self.labels)[self.transformed_sources]

    @property
    def _has_copies(self) -> bool:
        return (self.folder / TRANSFORMED).is_dir()

    @functools.cached_property
    def _index(self) -> Index:
        return Index(self.folder / INDEX)

    def _map(self, name: str) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(self.folder / name, mmap_mode="r")
        return array


def key_of(document: Path) -> str | None:
    """Return the key in a JSON document; None without a readable document or key."""
    try:
        return str(json.loads(document.read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError):
        return None


def statistics(moments: npt.NDArray[np.int64], rows: Rows, pixels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, in [0, 1], from int64 (N, 2, C) sums over `pixels` pixels each.

    Raises:
        ValueError: there are no rows.
    """
    if not len(rows):
        raise ValueError("no images to compute mean and standard deviation from")
    total = np.zeros(moments.shape[1:], np.float64)
    for start in range(0, len(rows), 100_000):  # in parts: a memory map that is indexed becomes a copy
        total += moments[rows[start : start + 100_000]].sum(0)
    mean, square = total / (len(rows) * pixels)
    # One grey value in all pixels has no spread; a standard deviation of a grey level at least keeps division defined.
    std = np.sqrt(np.maximum(square - mean**2, 1.0))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())
