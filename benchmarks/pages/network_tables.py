"""The tables on smaller networks, and on a search for better settings of training."""

from collections.abc import Mapping
from typing import Any

from benchmarks.pages.markdown import NOT_MEASURED, of_result, percent, table

KINDS = {
    "original": "EfficientNet-Lite0, fine-tuned",
    "alone": "half ResNet-18-D, labels only",
    "taught": "half ResNet-18-D, EfficientNet-Lite0 as teacher",
    "pruned": "EfficientNet-Lite0, pruned and fine-tuned",
}


def points(difference: Mapping[str, float]) -> str:
    """Return a difference of shares in points, with its interval."""
    return f"{100 * difference['value']:+.1f} ({100 * difference['low']:+.1f} to {100 * difference['high']:+.1f})"


@of_result("variants.json")
def variants(result: Any) -> str:
    """Make the table of distilled and pruned networks beside those that they are compared with."""
    rows = []
    for dataset, kinds in result["sections"].items():
        rates = {row["kind"]: row["requests_per_second"] for row in kinds}
        for row in kinds:
            against = row.get("against")
            ratio = f", {rates[row['kind']] / rates[against]:.2f}x" if against else ""
            compared = f"{points(row['difference'])}, p = {row['p']:.2g}; against {KINDS[against]}" if against else ""
            parameters = f"{row['parameters'] / 1e6:.2f} M, {row['image_size']} px"
            rate = f"{row['requests_per_second']:,.0f}{ratio}"
            images = f"{dataset}, {row['test_images']:,} images"
            rows.append([f"{images}: {KINDS[row['kind']]}", parameters, percent(row["top_1"]), compared, rate])
    head = ["network", "parameters, input", "top-1 of the folds", "points of top-1 against another", "requests/s"]
    return table(head, rows) if rows else NOT_MEASURED


@of_result("search.json")
def search(document: Mapping[str, Any]) -> str:
    """Make the table of the settings that a search found, beside the configuration's own."""
    rows = [
        [
            str(row["seed"]),
            *(
                f"{row[kind]['right']} of {row[kind]['images']}, {row[kind]['log_loss']:.4f}"
                for kind in ("default", "best")
            ),
        ]
        for row in document["seeds"]
    ]
    gain, loss = document["gain"], document["log_loss"]
    verdict = "a gain" if gain["low"] > 0 else "a loss" if gain["high"] < 0 else "none that these seeds show"
    trials = ", ".join(f"{count} {state}" for state, count in document["trials"].items())
    return table(["seed", "configuration's settings: right, log-loss", "best settings: right, log-loss"], rows) + (
        f"\n\nGain in top-1: {points(gain)} points, {verdict}; log-loss {loss['value']:+.4f} "
        f"({loss['low']:+.4f} to {loss['high']:+.4f}). {document['dataset'].capitalize()}, {trials} trials of at most "
        f"{document['minutes']:g} min, as have these runs. Intervals of 95 % over the seeds."
    )
