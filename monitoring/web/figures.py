"""The exporter's metrics as the page shows them: a document with one entry for each version of a model."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from monitoring.web.exchange import Refusal

TIMEOUT = 10.0  # seconds; the first test of a window for drift takes some of them
PREFIX = "sightline_"
Series = dict[str, list[tuple[Mapping[str, str], float]]]  # by name: labels and value of each sample


def read(url: str) -> dict[str, Any]:
    """Return the figures of the exporter at an address.

    Raises:
        Refusal: it does not answer.
    """
    try:
        response = httpx.get(url, timeout=TIMEOUT, trust_env=False).raise_for_status()
        families = list(text_string_to_metric_families(response.text))
    except (httpx.HTTPError, ValueError) as error:
        remedy = "start it with make watch, in the folder of the server"
        raise Refusal(503, "NoExporter", f"the exporter of the metrics does not answer: {remedy}") from error
    return document(sample for family in families for sample in family.samples)


def document(samples: Iterable[Sample]) -> dict[str, Any]:
    """Return the figures in samples of the exporter."""
    versions: dict[tuple[str, str], Series] = defaultdict(lambda: defaultdict(list))
    up = False
    for sample in samples:
        name, labels = sample.name.removeprefix(PREFIX), sample.labels
        up = bool(sample.value) if name == "up" else up
        if "model" in labels and math.isfinite(sample.value):
            versions[labels["model"], labels["version"]][name].append((labels, sample.value))
    entries = [{"model": model, "version": version} | _entry(series) for (model, version), series in versions.items()]
    return {"up": up, "versions": entries}


def _entry(series: Series) -> dict[str, Any]:
    return {
        "live": bool(series["live_version"]),
        "default": bool(series["default_version"]),
        "queue": _sum(series["queue_requests"]),
        "workers": _by(series["workers"], "state"),
        "requests": _by(series["requests_total"], "code"),
        "refused": _by(series["refused_images_total"], "reason"),
        "classes": _by(series["predictions_total"], "class"),
        "confidence": {"sum": _sum(series["confidence_sum"]), "images": _sum(series["confidence_count"])},
        "unfamiliar": _by(series["familiarity_bucket"], "le").get("0.05", 0.0),
        "familiarity": _sum(series["familiarity_count"]),
        "reference": _sum(series["drift_reference_images"]) if series["drift_reference_images"] else None,
        "windows": [_window(series, window) for window in sorted(_by(series["drift_mmd"], "window"), key=int)],
    }


def _window(series: Series, window: str) -> dict[str, Any]:
    """Return the verdict on the newest images: kind is empty without a shift."""

    def own(name: str) -> list[tuple[Mapping[str, str], float]]:
        return [(labels, value) for labels, value in series[name] if labels["window"] == window]

    distances, limits = _by(own("drift_jensen_shannon"), "column"), _by(own("drift_jensen_shannon_threshold"), "column")
    changed = [column for column, value in distances.items() if value > limits.get(column, 1.0)]
    if _sum(own("drift_class_excess")) > _sum(own("drift_class_excess_threshold")):
        changed.append("one class is more frequent")
    kinds = [kind for kind, value in _by(own("drift_detected"), "kind").items() if value]
    return {
        "images": int(window),
        "kind": kinds[0] if kinds else "",
        "mmd": _sum(own("drift_mmd")),
        "threshold": _sum(own("drift_mmd_threshold")),
        "changed": changed,
        "accuracy": {
            end or "value": _sum(own(f"estimated_accuracy{end and '_' + end}")) for end in ("", "low", "high")
        },
        "reliable": bool(_sum(own("estimated_accuracy_reliable"))),
    }


def _by(samples: Iterable[tuple[Mapping[str, str], float]], label: str) -> dict[str, float]:
    return {labels[label]: value for labels, value in samples}


def _sum(samples: Iterable[tuple[Mapping[str, str], float]]) -> float:
    return sum(value for _, value in samples)
