"""How many test images a run still answers right when they are corrupted."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from handlers.run_folder import RunFolder
from training import scores
from training.data.progress import progress
from training.predictions import Predictions, decode, open_classifier
from training.report.corruptions import CORRUPTIONS, STRENGTHS

if TYPE_CHECKING:
    from handlers.classifier import Classifier

IMAGES = 200
BATCH = 25
SEED = 0


def measure(run: RunFolder, console: Console) -> dict[str, Any]:
    """Return top-1 on at most `IMAGES` test images, without a corruption, and with each at each strength.

    `mean_top_1` is that of all corruptions and strengths, with the interval of a bootstrap over images.

    Raises:
        DatasetError: the run is not evaluated, or an image has gone or changed.
    """
    start = time.perf_counter()
    predictions = Predictions.load(run.predictions)
    count = len(predictions.labels)
    random = np.random.default_rng(SEED)
    rows = np.sort(random.choice(count, min(IMAGES, count), replace=False))
    records = predictions.records()
    classifier = open_classifier(run.path)
    images = torch.stack(decode(classifier, [records[row] for row in rows.tolist()], predictions.raw))
    labels = predictions.labels[rows]
    right = {name: np.zeros((STRENGTHS, len(rows)), np.bool_) for name in CORRUPTIONS}
    with progress(console, "corrupting", len(CORRUPTIONS) * STRENGTHS * len(rows)) as advance:
        for number, name in enumerate(CORRUPTIONS):
            for strength in range(1, STRENGTHS + 1):
                for first in range(0, len(rows), BATCH):
                    part = slice(first, first + BATCH)
                    # The same seed at each strength: the same noise, only stronger.
                    answers = _answers(classifier, images[part], name, strength, SEED + 1000 * number + first)
                    right[name][strength - 1, part] = answers == labels[part]
                    advance(len(answers))
    clean = predictions.probabilities[rows].argmax(axis=1) == labels
    shares = np.concatenate(list(right.values())).mean(axis=0)
    draws = shares[random.integers(0, len(rows), (scores.RESAMPLES, len(rows)))].mean(axis=1)
    return {
        "images": len(rows),
        "top_1": scores.plain(scores.proportion(int(clean.sum()), len(rows))),
        "mean_top_1": scores.plain(scores.percentile(float(shares.mean()), draws)),
        "corruptions": {name: answers.mean(axis=1).tolist() for name, answers in right.items()},
        "seconds": round(time.perf_counter() - start, 1),
    }


def _answers(
    classifier: "Classifier", images: torch.Tensor, name: str, strength: int, seed: int
) -> npt.NDArray[np.int64]:
    """Return the answers (B,) to images uint8 (B, C, S, S), corrupted as they reach the network."""
    corrupted = CORRUPTIONS[name](images.float() / 255, strength, seed)
    pixels = (corrupted * 255).round().byte()
    answers: npt.NDArray[np.int64] = classifier.predict(list(pixels)).argmax(dim=1).numpy()
    return answers
