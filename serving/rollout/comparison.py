"""The answers of two versions to the same images, and the report on them."""

import csv
import math
import statistics
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from handlers import atomic
from serving.client import ClientError, Prediction
from serving.rollout.evidence import mcnemar, paired_change, wilson

CONFUSIONS, EXAMPLES = 5, 5  # that a report shows
COLUMNS = (
    *("request_id", "image", "sha256", "live_label", "live_confidence", "new_label", "new_confidence"),
    *("live_seconds", "new_seconds", "error", "label"),
)
UNTIMED = math.nan


class Answer(NamedTuple):
    """The first class of an answer with its probability, and the seconds that a caller waited, NaN if unknown."""

    label: str
    confidence: float
    seconds: float = UNTIMED

    @classmethod
    def of(cls, prediction: Prediction, seconds: float = UNTIMED) -> "Answer":
        """Return that of a prediction."""
        return cls(prediction.label, prediction.probabilities[prediction.label], seconds)


class Pair(NamedTuple):
    """Both answers to one image, that of the new version None with its `error`."""

    request_id: str
    image: int
    sha256: str
    live: Answer
    new: Answer | None
    error: str = ""

    @property
    def agrees(self) -> bool:
        """Return whether both have the same first class."""
        return self.new is not None and self.new.label == self.live.label


class Paired(NamedTuple):
    """Right answers to the labelled images: of both versions, and of one only."""

    images: int
    live: int
    new: int
    losses: int  # only the live version is right
    gains: int  # only the new version is right


class Comparison:
    """Pairs of answers, with labels of some of their images.

    Args:
        classes: that a label may have; None: any.
    """

    def __init__(self, pairs: Sequence[Pair] = (), classes: Container[str] | None = None) -> None:
        self.pairs = list(pairs)
        self.labels: Mapping[str, str] = {}  # of images, by their SHA-256
        self._classes = classes

    @property
    def agreeing(self) -> int:
        """Return the number of images with the same first class."""
        return sum(pair.agrees for pair in self.pairs)

    @property
    def unanswered(self) -> int:
        """Return the number of images that the new version does not answer."""
        return sum(pair.new is None for pair in self.pairs)

    def paired(self) -> Paired:
        """Return the right answers to the labelled images."""
        rights = Counter(
            (pair.live.label == label, pair.new is not None and pair.new.label == label)
            for pair in self.pairs
            if (label := self.label_of(pair)) is not None
        )
        losses, gains, both = rights[True, False], rights[False, True], rights[True, True]
        return Paired(rights.total(), both + losses, both + gains, losses, gains)

    def label_of(self, pair: Pair) -> str | None:
        """Return the label of an image, None without one or if it is no class."""
        label = self.labels.get(pair.sha256)
        return label if self._classes is None or label in self._classes else None

    def timed(self) -> list[tuple[float, float]]:
        """Return the seconds of both versions, live and new, for the images that both were asked."""
        times = [(pair.live.seconds, pair.new.seconds) for pair in self.pairs if pair.new is not None]
        return [both for both in times if not any(map(math.isnan, both))]

    def lines(self) -> list[str]:
        """Return the report for people."""
        if not self.pairs:
            return ["no image was compared"]
        count, same = len(self.pairs), self.agreeing
        missing = f", {self.unanswered} not answered" if self.unanswered else ""
        lines = [f"{count:,} images: agreement {share(same, count)}, differs by {1 - same / count:.1%}{missing}"]
        answered = [(pair.live, pair.new) for pair in self.pairs if pair.new is not None]
        if answered:
            live = statistics.fmean(before.confidence for before, _ in answered)
            new = statistics.fmean(after.confidence for _, after in answered)
            lines.append(f"mean confidence {live:.3f} -> {new:.3f} ({new - live:+.3f})")
        return lines + self._latency_lines() + self._label_lines() + self._difference_lines()

    def _latency_lines(self) -> list[str]:
        times = self.timed()
        if len(times) < 2:
            return []
        live, new = map(_latency, zip(*times, strict=True))
        return [f"latency of {len(times)} images: live {live}; new {new}"]

    def _label_lines(self) -> list[str]:
        score = self.paired()
        if not score.images:
            return []
        low, high = paired_change(score.losses, score.gains, score.images)
        change = f"{100 * (score.new - score.live) / score.images:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
        live, new = share(score.live, score.images), share(score.new, score.images)
        counts = f"{score.losses} lost, {score.gains} gained, McNemar p = {mcnemar(score.losses, score.gains):.2g}"
        return [f"{score.images:,} labelled images: right {live} -> {new}: {change}, {counts}"]

    def _difference_lines(self) -> list[str]:
        different = [pair for pair in self.pairs if not pair.agrees]
        kinds = Counter((pair.live.label, pair.new.label) for pair in different if pair.new is not None)
        lines = [f"  {live} now {new}: {count}" for (live, new), count in kinds.most_common(CONFUSIONS)]
        errors = Counter(pair.error for pair in different if pair.new is None)
        lines += [f"  not answered, {error}: {count}" for error, count in errors.most_common(CONFUSIONS)]
        if different:
            different.sort(key=lambda pair: -pair.live.confidence)
            lines.append("  such as " + ", ".join(pair.request_id for pair in different[:EXAMPLES]))
        return lines

    def write_csv(self, path: Path) -> None:
        """Write a row for each pair."""
        with atomic.replacing(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for pair in self.pairs:
                live, new = pair.live, pair.new or Answer("", UNTIMED)
                cells = (live.label, live.confidence, new.label, new.confidence, live.seconds, new.seconds)
                plain = ["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in cells]
                table.writerow([*pair[:3], *plain, pair.error, self.label_of(pair) or ""])


def share(count: int, total: int) -> str:
    """Return a share with its interval for people."""
    low, high = wilson(count, total)
    return f"{count / total:.1%} ({low:.1%} to {high:.1%})"


def _latency(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.1f} ms, 95 % {tail(seconds) * 1e3:.1f} ms"


def tail(values: Sequence[float]) -> float:
    """Return the seconds that 95 % of at least two values do not exceed."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def answer_of(ask: Callable[[], Prediction], clock: Callable[[], float]) -> tuple[Answer | None, str]:
    """Return an answer with its seconds, or None and the kind of the error."""
    start_time = clock()
    try:
        return Answer.of(ask(), clock() - start_time), ""
    except ClientError as error:
        return None, getattr(error, "kind", "") or type(error).__name__
