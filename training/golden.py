"""Choose the golden images of a run: some of the data set's own, as they are encoded, and drawn cards."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from handlers import artifact, golden, tolerances
from handlers.classifier import Classifier
from handlers.golden import Golden
from training.errors import TrainingError
from training.generate.card import cards
from training.loop import validation_batches
from training.splits import Rows, Split
from training.store import PreparedDataset

IMAGES = 8  # of the data set, of as many classes
CANDIDATES = 4  # times as many, of which the surest are taken: rounding does not change their best class
LARGEST = 2**18  # bytes; of a larger image its prepared pixels travel


def choose(weights: Path, data: PreparedDataset, split: Split) -> list[Golden]:
    """Return validation images of several classes and drawn ones, with pixels and answers of an artifact.

    The int8 network beside the artifact, if there is one, answers too.

    Raises:
        GoldenError: an image cannot be read.
        TrainingError: an image is decoded otherwise than when the data set was prepared.
    """
    classifier = Classifier(weights)
    int8 = Classifier(weights, precision="int8") if artifact.quantized(weights).is_file() else None
    images = _images(classifier, data, split)
    drawn = cards(classifier.preprocess.shortest_side)
    return [*golden.of(classifier, images, int8=int8), *golden.of(classifier, drawn, int8=int8, drawn=True)]


def _images(classifier: Classifier, data: PreparedDataset, split: Split) -> dict[str, bytes]:
    rows = candidates(np.asarray(data.labels)[split.validation], split.validation)
    batches = validation_batches(data, dataclasses.replace(split, validation=np.concatenate(rows)), IMAGES)
    pixels = torch.cat([torch.as_tensor(batch) for batch, _ in batches])
    best = classifier.predict(list(pixels)).topk(min(2, len(classifier.spec.classes))).values
    sure = (best[:, 0] / best[:, -1]).tolist()
    share, first = max(1, IMAGES // len(rows)), 0
    images: dict[str, bytes] = {}
    for of_class in rows:
        places = sorted(range(first, first + len(of_class)), key=sure.__getitem__, reverse=True)
        for place in places[:share]:
            images[f"image-{len(images)}"] = _encoded(classifier, data, int(of_class[place - first]), pixels[place])
        first += len(of_class)
    return images


def candidates(labels: Rows, rows: Rows) -> list[Rows]:
    """Return rows of up to `IMAGES` classes, spread over those that there are: a few of each, in order."""
    classes = np.unique(labels)
    chosen = classes[np.unique(np.linspace(0, len(classes) - 1, min(IMAGES, len(classes))).astype(int))]
    most = CANDIDATES * max(1, IMAGES // len(chosen))
    return [rows[labels == label][:most] for label in chosen]


def _encoded(classifier: Classifier, data: PreparedDataset, row: int, prepared: torch.Tensor) -> bytes:
    """Return an image as it is encoded, or its prepared pixels as PNG where it is not there any more, or is large."""
    record = data.record(row)
    try:
        encoded = record.read(data.raw)
    except OSError:
        encoded = b""
    if not 0 < len(encoded) <= LARGEST:
        file = io.BytesIO()
        Image.fromarray(prepared.permute(1, 2, 0).squeeze(2).numpy()).save(file, "PNG")
        return file.getvalue()
    (decoded,) = classifier.decode([encoded])
    apart = (decoded.float() - prepared.float()).abs().mean() if isinstance(decoded, torch.Tensor) else torch.inf
    if not apart <= tolerances.PIXELS:
        raise TrainingError(
            f"{data.raw / record.path}: {record.id} is decoded otherwise than when it was prepared: the network would "
            "be served other pixels than it has learnt from. Prepare the data set again (make data), and train"
        )
    return encoded
