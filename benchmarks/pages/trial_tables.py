"""The tables of trials in docs/operations.md: equal and worse versions, and what clients noticed."""

from collections.abc import Mapping
from typing import Any

from benchmarks.pages.markdown import NOT_MEASURED, of_result, table


@of_result("shadow.json")
def shadow(document: Mapping[str, Any]) -> str:
    """Make the tables; a section without a measurement says so."""
    sections = document["sections"]
    parts = [make(sections[name]) for name, make in PARTS.items() if name in sections]
    return "\n\n".join(parts) or NOT_MEASURED


def _streams(section: Mapping[str, Any]) -> str:
    live, equal, worse = (100 * value for value in section["accuracy"].values())
    names = {"networks": f"three networks: {live:.1f} %, the equal one {equal:.1f} %, the worse one {worse:.1f} %"}
    rows = [
        [
            names.get(row["streams"], row["streams"]),
            "late" if row["labels"] else "none",
            f"{row['equal_live']} of {row['trials']} live",
            f"{row['worse_refused']} of {row['trials']} refused",
            f"{row['requests_until_refused']:.0f}" if row["requests_until_refused"] else "",
            "19 and 19" if row["labels"] and row["streams"] == "networks" else "",
        ]
        for row in section["rows"]
    ]
    head = ["answers", "labels", "equal version", "version that is 5 points worse", "requests until refused", "goal"]
    return table(head, rows) + f"\n\nDrawn trials of up to {section['requests']:,} requests; medians."


def _served(section: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{row['trial']}, {row['version']} version" + ("" if row["labels"] else ", no labels"),
            row["outcome"],
            f"{row['seconds']:.0f} s",
            f"{row['failed']} failed, {row['changed']} changed, of {row['requests']:,}",
            f"{row['answered_by_new']:,} of {row['during']:,}",
            f"{row['before_ms']['p50']:.0f} / {row['during_ms']['p50']:.0f} ms",
            f"{row['before_ms']['p99']:.0f} / {row['during_ms']['p99']:.0f} ms",
        ]
        for row in section["rows"]
    ]
    head = ["trial", "it is", "after", "requests of clients", "the new version answered", "median, before / during"]
    head.append("99 %, before / during")
    note = f"Up to {section['rate']:g} requests/s, {section['share']:g} of them in the trial, with these networks."
    return table(head, rows) + f"\n\n{note}"


PARTS = {"streams": _streams, "served": _served}
