"""The tables of docs/monitoring.md: what drift is recognised, and how good the accuracy without labels is."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages.markdown import of_result, table

TITLES = {"petals": "Petals", "moths": "Moths", "places365": "Places365"}


@of_result("drift.json")
def drift(document: Mapping[str, Any]) -> str:
    """Make the tables of drift."""
    sections = document["sections"]
    images, hands, species = (sections[name] for name in ("images", "false_alarms", "left_out"))
    rows = [
        ["generated hands without a shift, no image twice", _flagged(hands), "at most 10"],
        ["real images without a shift", _flagged(images["clean"]), ""],
        *(
            [f"{TITLES[name]}, corruptions that cost 3 points of top-1 or more", _flagged(total), "95 %"]
            for name, total in images["corrupted"].items()
        ),
        ["corruptions that cost less", _flagged(images["mild"]), ""],
        ["images of another of the three sets", _flagged(_sum(images["other_sets"])), ""],
        ["a fifth of the moth species, left out of training", _flagged(species["left_out"]), ""],
        *(
            [f"{TITLES[row['dataset']]}, {_shifted(row)}", _flagged(row), "label shift"]
            for row in sections["label_shift"]
        ),
    ]
    count = [number for number in species["images"] if number is not None]
    note = (
        f"A window has 100 images, unless another size is given. Of the left-out species, the newest 100 images were "
        f"flagged after {statistics.median(count):.0f} of them (median), {max(count)} at most, in "
        f"{len(count)} of {len(species['images'])} turns. A verdict on 100 images takes {hands['seconds']:.3f} s of "
        f"processor time; the reference of the small network has {hands['reference_bytes'] / 1000:.0f} KB."
    )
    accuracy = [
        [
            "all" if row["dataset"] == "all" else TITLES[row["dataset"]],
            "up to 20 points" if not row["drop_above"] else "more",
            f"{row['windows']:,}",
            f"{100 * row['mean_absolute_error']:.1f}",
            f"{100 * row['mean_error']:+.1f}",
            *(f"{100 * row[name]:.0f} %" for name in ("inside", "reliable")),
        ]
        for row in images["accuracy"]
    ]
    head = [
        f"windows of {min(400, *images['images'].values())}",
        "drop of top-1",
        "windows",
        "mean absolute error, points",
        "mean error",
    ]
    head += ["true value in the 95 % interval", "called reliable"]
    return "\n\n".join([table(["windows", "flagged", "goal"], rows), note, table(head, accuracy)])


def _flagged(counts: Mapping[str, int]) -> str:
    """Return the number of windows that are flagged, and of those that are named label shift."""
    text = f"{counts['flagged']:,} of {counts['windows']:,}"
    return f"{text}; {counts['label_shift']:,} as label shift" if counts["label_shift"] else text


def _sum(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {name: sum(row[name] for row in rows) for name in ("windows", "flagged", "label_shift")}


def _shifted(row: Mapping[str, Any]) -> str:
    return f"one class ten times as frequent, windows of {row['images']:.0f}"
