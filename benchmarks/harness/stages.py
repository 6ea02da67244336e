"""The stages of a request, from the clocks of a client and a worker: their sum must be the time of the request."""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

REST = "the rest of the handler"
QUEUE = "queue and batch delay"  # as TorchServe counts it
STAGES = {
    "front end, before": "#9db8d2",
    QUEUE: "#d9d9d9",
    "socket, to the worker": "#5f8fbf",
    "decode": "#e08e45",
    "resize": "#f2c488",
    "normalize": "#e7d36f",
    "network": "#4f9d69",
    "answer": "#a4ce9c",
    REST: "#8a8a8a",
    "socket, from the worker": "#5f8fbf",
    "front end, after": "#9db8d2",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    """One request: its number, and when it was sent and answered, on a clock that all processes share."""

    number: int
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """Return how long it took."""
        return self.ended - self.began


class ProfileError(Exception):
    """The times are inconsistent; the message says why."""


def means(requests: Sequence[Sent], batches: Iterable[dict[str, Any]], waited: float) -> dict[str, float]:
    """Return the mean seconds of each of `STAGES` over requests that waited `waited` seconds in queues in total.

    Raises:
        ProfileError: a request is in no batch, or a stage took negative time.
    """
    batch_of = {int(number): batch for batch in batches for number in batch["ids"] if number is not None}
    missing = sum(request.number not in batch_of for request in requests)
    if missing or not requests:
        raise ProfileError(f"{missing} of {len(requests)} requests are in no batch that a worker wrote down")
    split = [_stages(request, batch_of[request.number]) for request in requests]
    mean = {name: statistics.fmean(stages[name] for stages in split) for name in STAGES}
    mean[QUEUE] = waited / len(requests)
    mean["front end, before"] -= mean[QUEUE]
    _check(mean, statistics.fmean(request.seconds for request in requests))
    return mean


def _check(mean: dict[str, float], total: float) -> None:
    """Check that no stage is negative, and that all add up to the time of a request."""
    negative = [name for name, seconds in mean.items() if seconds < -0.01 * total]
    if negative:
        raise ProfileError(f"{negative[0]} took {1000 * mean[negative[0]]:.3f} ms: the clocks do not fit together")
    if abs(sum(mean.values()) - total) > 1e-6:
        raise ProfileError(f"the stages add up to {sum(mean.values()):.6f} s, the request took {total:.6f} s")


def _stages(request: Sent, batch: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of each stage of one request; the queue's are still in the front end's."""
    spent: dict[str, float] = batch["stages"]
    # Threads decode in parallel: each gets its share of the elapsed time.
    total = max(spent["decode"] + spent["resize"], 1e-12)
    inside = {
        "decode": spent["decode and resize"] * spent["decode"] / total,
        "resize": spent["decode and resize"] * spent["resize"] / total,
        **{name: spent[name] for name in ("normalize", "network", "answer")},
    }
    return {
        "front end, before": batch["first"] - request.began,
        QUEUE: 0.0,
        "socket, to the worker": batch["began"] - batch["first"],
        **inside,
        REST: batch["ended"] - batch["began"] - sum(inside.values()),
        "socket, from the worker": batch["sent"] - batch["ended"],
        "front end, after": request.ended - batch["sent"],
    }
