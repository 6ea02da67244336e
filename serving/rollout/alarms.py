"""The alarms of a version soon after its deployment: each compares it with the previous one, or is empty.

Figures are those that the exporter of metrics shows: errors, latency, and a shift that the requests do not explain, of
the embeddings, the confidence or the classes. Labels that came later give the accuracy.
"""

import datetime as dt
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from serving.lifecycle.deployment import DeployLimits
from serving.rollout.evidence import evidence, wilson

LEVEL = 0.01  # false alarms of each test
IMAGES = 200  # of each version, for comparisons of means and shares
ERRORS, UNKNOWN_ERRORS = 0.01, 0.05  # allowed share at least; of a previous version that answered less than `IMAGES`
ENDED_WORKERS = 3
CONFIDENCE, CLASSES, TRAFFIC = 0.15, 0.3, 0.2  # fall of the mean; distances of shares
LIMITS = DeployLimits()


class Figures(NamedTuple):
    """The counters of one version, and whether each of its windows shows drift of the input."""

    counts: Mapping[str, float]
    classes: Mapping[str, float]
    bytes: Mapping[str, float]
    drift: Mapping[str, bool]

    def since(self, earlier: "Figures | None") -> "Figures":
        """Return those that were counted after earlier ones."""
        if earlier is None:
            return self
        return Figures(
            _less(self.counts, earlier.counts),
            _less(self.classes, earlier.classes),
            _less(self.bytes, earlier.bytes),
            self.drift,
        )


def _less(new: Mapping[str, float], old: Mapping[str, float]) -> dict[str, float]:
    return {key: value - old.get(key, 0.0) for key, value in new.items()}


def figures_of(text: str, name: str, version: str) -> Figures:
    """Return the figures of a version in the text of the exporter."""
    counts, classes, sizes = (defaultdict[str, float](float) for _ in range(3))
    drift: dict[str, bool] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labelled = sample.labels
            if (labelled.get("model"), labelled.get("version")) != (name, version):
                continue
            counts[sample.name] += sample.value
            if sample.name == "sightline_requests_total" and labelled["code"].startswith("5"):
                counts["errors"] += sample.value
            elif sample.name == "sightline_predictions_total":
                classes[labelled["class"]] += sample.value
            elif sample.name == "sightline_image_bytes_bucket":
                sizes[labelled["le"]] += sample.value
            elif sample.name == "sightline_drift_detected":
                is_input = labelled["kind"] == "input" and sample.value == 1
                drift[labelled["window"]] = drift.get(labelled["window"], False) or is_input
    return Figures(counts, classes, _of_buckets(sizes), drift)


def _of_buckets(cumulative: Mapping[str, float]) -> dict[str, float]:
    """Return the images of each bucket from those up to its bound."""
    bounds = sorted(cumulative, key=float)
    return {
        bound: cumulative[bound] - (cumulative[before] if before else 0.0)
        for before, bound in zip(["", *bounds], bounds, strict=False)
    }


def errors(new: Figures, old: Figures) -> str:
    """Return the alarm of failed requests and ended workers, empty without one."""
    failed, requests = (int(new.counts.get(key, 0)) for key in ("errors", "sightline_requests_total"))
    before, requests_before = (int(old.counts.get(key, 0)) for key in ("errors", "sightline_requests_total"))
    limit = max(ERRORS, wilson(before, requests_before)[1]) if requests_before >= IMAGES else UNKNOWN_ERRORS
    if evidence(failed, requests, limit) >= 1 / LEVEL:
        return f"{failed} of {requests} requests failed, {before} of {requests_before} of the previous version"
    ended = [figures.counts.get("sightline_worker_restarts_total", 0.0) for figures in (new, old)]
    return f"{ended[0]:.0f} of its workers have ended" if ended[0] >= ENDED_WORKERS > ended[1] else ""


def latency(new: Figures, old: Figures) -> str:
    """Return the alarm of the workers' time for an image, empty without one."""
    seconds = []
    for figures in (new, old):
        images = figures.counts.get("sightline_batch_images_sum", 0.0)
        if images < IMAGES:
            return ""
        seconds.append(figures.counts.get("sightline_stage_seconds_sum", 0.0) / images)
    if seconds[0] <= LIMITS.slower * seconds[1] + LIMITS.grace:
        return ""
    return f"{seconds[0] * 1e3:.0f} ms an image, {seconds[1] * 1e3:.0f} ms of the previous version"


def accuracy(rows: Sequence[Mapping[str, Any]], version: str, previous: str, deployed: float) -> str:
    """Return the alarm of wrong answers to labelled images, empty without one.

    Answers that the version gave before it was `deployed` (seconds since 1970), as in an earlier deployment, are left
    out.
    """
    answers: dict[str, list[bool]] = {version: [], previous: []}
    for row in rows:
        is_earlier = row["version"] == version and dt.datetime.fromisoformat(row["time"]).timestamp() < deployed
        if row["version"] in answers and not is_earlier:
            answers[row["version"]].append(row["label"] == row["answer"])
    new, old = answers[version], answers[previous]
    if not old or evidence(new.count(False), len(new), 1 - wilson(sum(old), len(old))[0]) < 1 / LEVEL:
        return ""
    return (
        f"{sum(new) / len(new):.1%} of {len(new)} labelled answers are right, {sum(old) / len(old):.1%} of {len(old)} "
        "of the previous version"
    )


def shift(new: Figures, old: Figures) -> str:
    """Return the alarm of another confidence or other classes for the same kind of requests, empty without one."""
    images = [figures.counts.get("sightline_confidence_count", 0.0) for figures in (new, old)]
    if min(images) < IMAGES or not is_same_traffic(new, old):
        return ""
    means = [
        figures.counts["sightline_confidence_sum"] / count for figures, count in zip((new, old), images, strict=True)
    ]
    if means[0] < means[1] - CONFIDENCE:
        return f"the mean confidence is {means[0]:.2f}, {means[1]:.2f} of the previous version"
    distance, noise = distance_of(new.classes, old.classes)
    return f"{distance:.0%} of the answers are of other classes than before" if distance > CLASSES + noise else ""


def is_same_traffic(new: Figures, old: Figures) -> bool:
    """Return whether both versions got files of similar sizes."""
    if min(sum(new.bytes.values()), sum(old.bytes.values())) < IMAGES / 2:
        return False
    distance, noise = distance_of(new.bytes, old.bytes)
    return distance <= TRAFFIC + noise


def distance_of(first: Mapping[str, float], second: Mapping[str, float]) -> tuple[float, float]:
    """Return the total variation distance of two histograms, and the mean one of samples of the same shares."""
    sizes = sum(first.values()), sum(second.values())
    distance = noise = 0.0
    for key in {*first, *second}:
        counts = first.get(key, 0.0), second.get(key, 0.0)
        pooled = sum(counts) / sum(sizes)
        distance += abs(counts[0] / sizes[0] - counts[1] / sizes[1]) / 2
        # Half of the mean absolute value of a normal variable.
        noise += (pooled * (1 - pooled) * (1 / sizes[0] + 1 / sizes[1]) / (2 * math.pi)) ** 0.5
    return distance, noise


def is_own_drift(new: Figures, old: Figures) -> bool:
    """Return whether a version sees drift in every window, and the previous one, for similar requests, in none."""
    if not new.drift or not old.drift or not is_same_traffic(new, old):
        return False
    return all(new.drift.values()) and not any(old.drift.values())
