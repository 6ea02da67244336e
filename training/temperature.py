"""Temperature scaling: a number that divides the logits of a network, so that it is as sure as it is right.

Guo et al. 2017, "On calibration of modern neural networks" (arXiv:1706.04599), section 4.2: the temperature is fitted
on the validation images, by their log-loss. It never changes which class is the best.
"""

import dataclasses
import math

import torch
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

LOW, HIGH = 0.05, 20.0
LEAST_IMAGES = 50


@dataclasses.dataclass(frozen=True, slots=True)
class Temperature:
    """A temperature, the mean log-loss of the validation images without it and with it, and a line about them."""

    value: float
    images: int
    log_loss_unscaled: float | None
    log_loss: float | None
    says: str


def scaled_log_loss(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the log-loss of logits (N, K) for labels (N,) at the temperature that is fitted to them, in nats."""
    return float(cross_entropy(logits / fit_temperature(logits, labels).value, labels))


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> Temperature:
    """Return the temperature of a network by validation images: logits (N, K) and true classes, int64 (N,).

    Where all images are right, the log-loss has its minimum at a temperature of 0. Then the true class has a target of
    (N + 1) / (N + 2), and the other classes share the rest, as if one image more were wrong (Platt 1999, "Probabilistic
    outputs for support vector machines", section 2.2).
    """
    images, classes = logits.shape
    if images < LEAST_IMAGES:
        says = f"temperature 1: fewer than {LEAST_IMAGES} validation images ({images}) to fit it on"
        return Temperature(1.0, images, None, None, says)
    logits = logits.double()
    all_right = bool((logits.argmax(dim=1) == labels).all())
    wrong = 1 / (images + 2) if all_right else 0.0
    targets = torch.full_like(logits, wrong / max(1, classes - 1)).scatter_(1, labels[:, None], 1 - wrong)

    def loss(log_temperature: float) -> float:
        return float(cross_entropy(logits / math.exp(log_temperature), targets))

    best = minimize_scalar(loss, bounds=(math.log(LOW), math.log(HIGH)), method="bounded").x
    # A network that answers all images alike has no best temperature.
    value = round(math.exp(best), 4) if loss(best) < loss(0.0) else 1.0
    before, after = (float(cross_entropy(logits / temperature, labels)) for temperature in (1.0, value))
    says = f"temperature {value:g}: log-loss {before:.4f} without it, {after:.4f} with it, {images} validation images"
    if all_right:
        says += ", all right: fitted as if one more were wrong"
    return Temperature(value, images, before, after, says)
