"""A linear head on frozen features: multinomial logistic regression by L-BFGS, its regularisation chosen on validation.

The first of the two stages of LP-FT (Kumar et al. 2022, arXiv:2202.10054): fine-tuning from a head that fits the
features changes them less than from a random one.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import pickle
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from training.saving import save
from training.temperature import scaled_log_loss

# Of the squared weights, in the mean loss of an image, for features of unit variance; from strong to weak, so that each
# fit starts near the one before it.
STRENGTHS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
STEPS = 60  # of L-BFGS, at most, for each strength
SEARCHED, JUDGED = 20_000, 5_000  # training and validation images that the strength is chosen with, at most
SECONDS_BETWEEN_LINES = 20.0
FORMAT = 1  # of a head that is kept; the next one when `fit` gives others

Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """A fitted head: weight (K, D) and bias (K,) of the logits, and the strength of its regularisation."""

    weight: torch.Tensor
    bias: torch.Tensor
    strength: float

    def logits(self, features: npt.NDArray[np.float32]) -> torch.Tensor:
        """Return float32 (N, K) for features (N, D)."""
        return functional.linear(torch.from_numpy(features), self.weight, self.bias)


def fit_once(
    folder: Path,
    features: npt.NDArray[np.float32],
    labels: Rows,
    classes: int,
    validation: tuple[npt.NDArray[np.float32], Rows],
    *,
    balanced: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Head:
    """Return what `fit` does; a head of the same images and settings is read from `folder`, where it was written."""
    identity = hashlib.sha256(repr((FORMAT, classes, balanced, STRENGTHS, STEPS, SEARCHED, JUDGED)).encode())
    for array in (features, labels, *validation):
        identity.update(repr(array.shape).encode())
        identity.update(np.ascontiguousarray(array).data)
    path = folder / f"{identity.hexdigest()[:32]}.head.pt"
    if path.is_file():
        with contextlib.suppress(RuntimeError, EOFError, TypeError, pickle.UnpicklingError):  # damaged: fit it again
            return Head(**torch.load(path, weights_only=True))
    fitted = fit(features, labels, classes, validation, balanced=balanced, say=say)
    save(dataclasses.asdict(fitted), path)
    return fitted


def fit(
    features: npt.NDArray[np.float32],
    labels: Rows,
    classes: int,
    validation: tuple[npt.NDArray[np.float32], Rows] | None,
    *,
    balanced: bool = False,
    strengths: Sequence[float] = STRENGTHS,
    say: Callable[[str], None] = lambda line: None,
) -> Head:
    """Return the head with the lowest log-loss on validation, at its temperature, of those of all `strengths`.

    The head is served with a temperature: judged without one, a strong regularisation would look worse than it is.

    Args:
        features: of training images, (N, D).
        labels: their classes, (N,).
        classes: K.
        validation: features and labels of validation images; without them the strength is the middle one.
        balanced: weight each class as if it had as many images as the others.
        say: takes lines on the progress of a fit that takes long.
    """
    # A feature that hardly varies is not scaled up: the head would lean on it, and fine-tuning moves it first.
    mean, scale = features.mean(axis=0), features.std(axis=0).clip(float(features.std()) + 1e-12)
    inputs, targets = torch.from_numpy((features - mean) / scale), torch.from_numpy(labels)
    weights = balanced_weights(labels, classes) if balanced else torch.ones(classes)
    report = _Report(say)

    def finished(parameters: torch.Tensor, strength: float) -> Head:
        weight = parameters[:, :-1] / torch.from_numpy(scale)
        return Head(weight, parameters[:, -1] - weight @ torch.from_numpy(mean), strength)

    parameters = torch.zeros(classes, inputs.shape[1] + 1)
    if validation is None or not len(validation[1]):
        strength = strengths[len(strengths) // 2]
        return finished(_fitted(inputs, targets, weights, parameters, strength, report), strength)
    subset, judged = _subset(len(inputs), SEARCHED), _subset(len(validation[1]), JUDGED).numpy()
    true = torch.from_numpy(validation[1][judged])
    best: tuple[float, float, torch.Tensor] | None = None
    for strength in strengths:
        parameters = _fitted(inputs[subset], targets[subset], weights, parameters, strength, report)
        loss = scaled_log_loss(finished(parameters, strength).logits(validation[0][judged]), true)
        if best is not None and loss > best[0]:
            break
        best = (loss, strength, parameters)
    assert best is not None
    if len(subset) < len(inputs):
        return finished(_fitted(inputs, targets, weights, best[2], best[1], report), best[1])
    return finished(best[2], best[1])


def balanced_weights(labels: Rows, classes: int) -> torch.Tensor:
    """Return (classes,) that let each class count as if all had as many images; 0 for a class without any."""
    counts = torch.bincount(torch.from_numpy(np.asarray(labels)), minlength=classes).float()
    return torch.where(counts > 0, counts.sum() / counts.count_nonzero() / counts.clamp(min=1), 0.0)


def _subset(count: int, limit: int) -> torch.Tensor:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[:limit] if count > limit else torch.arange(count)


class _Report:
    """Says now and then how far the fits are."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.last = say, time.monotonic()

    def step(self, number: int, images: int, strength: float) -> None:
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LINES:
            self.last = now
            self.say(f"linear head: step {number} of about {STEPS}, {images:,} images, regularisation {strength:g}")


def _fitted(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    start: torch.Tensor,
    strength: float,
    report: _Report,
) -> torch.Tensor:
    """Return the weights and biases (K, D + 1) that minimise the regularised loss, from `start` on."""
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([parameters], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")
    steps = itertools.count(1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = functional.linear(inputs, parameters[:, :-1], parameters[:, -1])
        loss = functional.cross_entropy(logits, targets, weight=weights)
        loss = loss + strength * parameters[:, :-1].square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        report.step(next(steps), len(targets), strength)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return parameters.detach()
