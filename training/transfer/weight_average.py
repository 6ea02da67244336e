"""The average of a network's weights before and after fine-tuning, which is often better than either.

Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv:2109.01903). With few images a class, fine-tuning
overfits; an average with the first weights undoes much of that.
"""

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import nn

from training.temperature import scaled_log_loss

PARTS = (0.3, 0.6, 1.0)
JUDGED = 1000  # validation images that the average is chosen with, at most

Weights = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class WeightAverage:
    """Which average was chosen: the `part` in [0, 1] of the fine-tuned weights, those of the last or the best epoch.

    With part 0, `epoch` is empty. `accuracy` is that of the validation images, in [0, 1]; `log_losses` are theirs for
    each candidate, by its words, at the temperature of each. `says` is a line about them.
    """

    part: float
    epoch: str
    accuracy: float
    log_losses: Mapping[str, float]
    says: str


def choose(
    network: nn.Module,
    first: Weights,
    tuned: Mapping[str, Weights],
    answers: Callable[[], torch.Tensor],
    labels: torch.Tensor,
) -> WeightAverage:
    """Load the average with the lowest log-loss on validation images into the network, and return which it is.

    Args:
        network: whose weights are averaged.
        first: its weights before fine-tuning.
        tuned: weights after fine-tuning, by the name of their epoch.
        answers: returns the logits (N, K) of the network for the validation images.
        labels: the classes of these images, int64 (N,).
    """
    losses: dict[tuple[float, str], float] = {}
    accuracies: dict[tuple[float, str], float] = {}
    for part, epoch in [(0.0, ""), *((part, epoch) for epoch in tuned for part in PARTS)]:
        network.load_state_dict(averaged(first, tuned.get(epoch, first), part))
        logits = answers()
        accuracies[part, epoch] = float((logits.argmax(dim=1) == labels).float().mean())
        losses[part, epoch] = scaled_log_loss(logits, labels)
    part, epoch = min(losses, key=losses.__getitem__)
    network.load_state_dict(averaged(first, tuned.get(epoch, first), part))
    before, after = losses[0.0, ""], losses[part, epoch]
    says = f"weights: {_words(part, epoch)}; log-loss {before:.3f} before fine-tuning, {after:.3f} now"
    accuracy = accuracies[part, epoch]
    return WeightAverage(part, epoch, accuracy, {_words(*key): round(loss, 4) for key, loss in losses.items()}, says)


def averaged(first: Weights, tuned: Weights, part: float) -> dict[str, torch.Tensor]:
    """Return `part` of the tuned weights with the rest of the first ones; counters are those of the tuned ones."""
    return {
        name: torch.lerp(first[name], value, part) if value.is_floating_point() else value
        for name, value in tuned.items()
    }


def _words(part: float, epoch: str) -> str:
    if not part:
        return "those before fine-tuning"
    return f"those of the {epoch} epoch" if part == 1 else f"{part:.0%} of the way to those of the {epoch} epoch"
