"""Choose the golden images of a run: some of the data set's own, as they are encoded, and drawn cards."""

import contextlib
import hashlib
import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from handlers import golden, tolerances
from handlers.classifier import Classifier
from handlers.errors import TooLarge
from handlers.golden import Golden
from handlers.images.limits import UNLIMITED
from handlers.network import torchscript
from training.cards import cards
from training.configuration import TrainingError
from training.data import shards
from training.data.decoders import decode_and_resize
from training.data.splits import Rows, Split
from training.data.store import PreparedDataset

IMAGES = 8  # of the data set, of as many classes
CANDIDATES = 4  # times as many, of which the surest are taken: rounding does not change their best class
LARGEST = 2**18  # bytes; of a larger image its prepared pixels travel


def choose(weights: Path, data: PreparedDataset, split: Split) -> list[Golden]:
    """Return validation images of several classes and drawn ones, with pixels and answers of an artifact.

    The int8 network beside the artifact, if there is one, answers too.

    Raises:
        GoldenError: an image cannot be read.
        DatasetError: an image of a data set in shards is no longer in any shard.
        TrainingError: an image is decoded differently than when the data set was prepared.
    """
    classifier = Classifier(weights)
    int8 = Classifier(weights, precision="int8") if torchscript.quantized(weights).is_file() else None
    images = _images(classifier, data, split)
    drawn = cards(classifier.preprocess.shortest_side)
    return [*golden.of(classifier, images, int8=int8), *golden.of(classifier, drawn, int8=int8, drawn=True)]


def _images(classifier: Classifier, data: PreparedDataset, split: Split) -> dict[str, bytes]:
    rows = candidates(np.asarray(data.labels)[split.validation], split.validation)
    share = max(1, IMAGES // len(rows))
    images: dict[str, bytes] = {}
    for of_class in rows:
        pairs = [_pair(classifier, data, int(row)) for row in of_class]
        best = classifier.predict([prepared for _, prepared in pairs]).topk(min(2, len(data.classes))).values
        for place in (best[:, 0] / best[:, -1]).argsort(descending=True, stable=True)[:share].tolist():
            images[f"image-{len(images)}"] = _checked(classifier, data, int(of_class[place]), *pairs[place])
    return images


def candidates(labels: Rows, rows: Rows) -> list[Rows]:
    """Return rows of up to `IMAGES` classes, spread over those that there are: a few of each, in order."""
    classes = np.unique(labels)
    selection = classes[np.unique(np.linspace(0, len(classes) - 1, min(IMAGES, len(classes))).astype(int))]
    limit = CANDIDATES * max(1, IMAGES // len(selection))
    return [rows[labels == label][:limit] for label in selection]


def _pair(classifier: Classifier, data: PreparedDataset, row: int) -> tuple[bytes, torch.Tensor]:
    """Return the encoded bytes of an image, empty if it is gone or has changed since, and its training pixels.

    Raises:
        DatasetError: it is gone or has changed, and is in no shard either.
    """
    encoded = b""
    with contextlib.suppress(OSError):
        encoded = data.record(row).read(data.raw)
    if hashlib.sha256(encoded).digest() != data.sha256(row):
        encoded = b""
    if not data.encoded:
        return encoded, torch.from_numpy(np.array(data.images[row]))
    encoded = encoded or shards.encoded(data, row)
    return encoded, decode_and_resize(encoded, classifier.spec.preprocess, UNLIMITED)


def _checked(classifier: Classifier, data: PreparedDataset, row: int, encoded: bytes, prepared: torch.Tensor) -> bytes:
    """Return the encoded bytes of an image, or its prepared pixels as PNG if those are missing or large.

    Raises:
        TrainingError: it is decoded differently than when it was prepared.
    """
    decoded = classifier.decode([encoded])[0] if 0 < len(encoded) <= LARGEST else None
    if decoded is None or isinstance(decoded, TooLarge):
        file = io.BytesIO()
        pixels = prepared.permute(1, 2, 0).numpy()
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
        return file.getvalue()
    difference = (
        float((decoded.float() - prepared.float()).abs().mean()) if isinstance(decoded, torch.Tensor) else math.inf
    )
    if not difference <= tolerances.PIXELS:
        record = data.record(row)
        raise TrainingError(
            f"{data.raw / record.path}: {record.id} is decoded differently than when it was prepared: the served "
            "pixels would differ from the training pixels. Prepare the data set again (make data), and train"
        )
    return encoded
