"""The tables of docs/monitoring.md: the drift that is recognised, the accuracy without labels, the cost of counting."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.pages.markdown import of_result, table

TITLES = {"petals": "Petals", "moths": "Moths", "places365": "Places365"}


def _costs(name: str, row: Mapping[str, Any], kind: str) -> list[str]:
    """Return the cells of a row: time without monitoring, and its ratios with monitoring and to itself."""
    ratios = (_interval(row["ratio"][model]) for model in (kind, "again"))
    return [name, f"{row['cpu_milliseconds']['silent']:.2f} ms", *ratios]


@of_result("monitoring_served.json")
def served(document: Mapping[str, Any]) -> str:
    """Make the table of the processor time that monitoring costs a server."""
    rows = [
        _costs(f"{row['network']}, connections: {row['connections']}", row, "monitored") for row in document["rows"]
    ]
    note = (
        f"\n\nProcessor time of one request to a TorchServe: front end, workers and exporter. Ratios are the median of "
        f"{document['rows'][0]['pairs']} interleaved pairs of {document['seconds']:.0f} s, 95 % interval. Goal: "
        f"{document['goal']} times."
    )
    return table(["", "without", "with metrics, drift and a log of 10 %", "without, against itself"], rows) + note


@of_result("monitoring_cost.json")
def cost(document: Mapping[str, Any]) -> str:
    """Make the table of the processor time that counting takes."""
    rows = [
        _costs(f"{row['network']}, {row['precision']}, batch of {row['batch']}", row, "counting")
        for row in document["rows"]
    ]
    scrape = document["scrape"]
    note = (
        f"\n\nProcessor time of one image in a worker's service, without TorchServe. Ratios are the median of "
        f"{document['rows'][0]['pairs']} interleaved pairs, 95 % interval. Goal: {document['goal']} times. A "
        f"scrape of {scrape['workers']} workers with {scrape['classes']} classes takes the exporter "
        f"{scrape['cpu_milliseconds']:.0f} ms, without drift."
    )
    return table(["", "without", "with counting", "without, against itself"], rows) + note


def _interval(ratio: Mapping[str, float]) -> str:
    return f"{ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"


@of_result("monitoring_counts.json")
def counts(document: Mapping[str, Any]) -> str:
    """Make the tables of counts against answers, and of faults."""
    sections = document["sections"]
    parts = []
    if counted := sections.get("counts"):
        rows = [
            [name, f"{counted[name]['answered']:,}", str(counted[name]["missing"]), str(counted[name]["beyond"])]
            for name in ("requests", "predictions")
        ]
        parts += [
            table(["", "answered", "not counted", "counted, not answered"], rows),
            f"Answers of workers: {counted['kills']} workers killed, a swap in between, batches of {counted['batch']}.",
        ]
    if faults := sections.get("faults"):
        rows = [
            [name, f"{row['requests']:,}", str(row["failed"]), f"{row['p50']:.0f} ms", f"{row['p99']:.0f} ms"]
            for name, row in faults["rows"].items()
        ]
        parts += [
            table(["meanwhile", "requests", "failed", "median", "99 %"], rows),
            f"{faults['rate']:.0f} requests/s; in the last two rows a version is deployed meanwhile.",
        ]
    return "\n\n".join(parts)


@of_result("drift.json")
def drift(document: Mapping[str, Any]) -> str:
    """Make the tables of drift, of the sections that are measured."""
    sections = document["sections"]
    parts = [table(["windows of 100 images, unless another size is given", "flagged", "goal"], list(_rows(sections)))]
    if species := sections.get("left_out"):
        count = [number for number in species["images"] if number is not None]
        parts.append(
            f"The newest 100 images were flagged after {statistics.median(count):.0f} images of the left-out species "
            f"(median), {max(count)} at most, in {len(count)} of {len(species['images'])} turns."
        )
    if hands := sections.get("false_alarms"):
        parts.append(
            f"A verdict on 100 images takes {hands['seconds']:.3f} s of processor time. The reference of the network "
            f"for hands has {hands['reference_bytes'] / 1000:.0f} KB."
        )
    if images := sections.get("images"):
        parts.append(_accuracy(images))
    return "\n\n".join(parts)


def _rows(sections: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield what a window holds, how often it is flagged, and the goal."""
    if hands := sections.get("false_alarms"):
        yield ["generated hands without a shift, no image twice", _flagged(hands), "at most 10 of 1,000"]
    if images := sections.get("images"):
        yield ["real images without a shift", _flagged(images["clean"]), ""]
        for name, total in images["corrupted"].items():
            yield [f"{TITLES[name]}, corruptions that cost 3 points of top-1 or more", _flagged(total), "95 %"]
        yield ["corruptions that cost less", _flagged(images["mild"]), ""]
        yield ["images of another of the three sets", _flagged(_sum(images["other_sets"])), "all"]
    if species := sections.get("left_out"):
        yield ["moths, the species that were trained", _flagged(species["known"]), ""]
        yield ["moths, four species that were left out", _flagged(species["left_out"]), "all"]
    for row in sections.get("label_shift", ()):
        size = f"windows of {row['images']:.0f}"
        by_mmd = f"; by MMD only: {row['mmd']}" if "mmd" in row else ""
        yield [
            f"{TITLES[row['dataset']]}, one class ten times as frequent, {size}",
            _flagged(row) + by_mmd,
            "as label shift",
        ]


def _accuracy(images: Mapping[str, Any]) -> str:
    """Return the table of accuracy without labels."""
    rows = [
        [
            "all" if row["dataset"] == "all" else TITLES[row["dataset"]],
            "more than 20 points" if row["drop_above"] else "up to 20 points",
            f"{row['windows']:,}",
            f"{100 * row['mean_absolute_error']:.1f}",
            f"{100 * row['mean_error']:+.1f}",
            *(f"{100 * row[name]:.0f} %" for name in ("inside", "reliable")),
        ]
        for row in images["accuracy"]
    ]
    size = min(400, *images["images"].values())
    head = [f"accuracy without labels, windows of {size}", "drop of top-1", "windows", "mean absolute error, points"]
    return table([*head, "mean error", "true value in the 95 % interval", "called reliable"], rows)


def _flagged(counts: Mapping[str, int]) -> str:
    """Return the number of windows that are flagged, and of those that are named label shift."""
    text = f"{counts['flagged']:,} of {counts['windows']:,}"
    return f"{text}; {counts['label_shift']:,} as label shift" if counts["label_shift"] else text


def _sum(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {name: sum(row[name] for row in rows) for name in ("windows", "flagged", "label_shift")}
