"""The table of the container image in docs/operations.md: its parts, and how long it needs until it is READY."""

from pathlib import Path

from benchmarks.pages.markdown import NOT_MEASURED, load, table


def container(results: Path) -> str:
    """Make the table."""
    document = load(results / "image.json")
    if document is None:
        return NOT_MEASURED
    rows = [(part, f"{size / 1e9:.2f} GB") for part, size in document["parts"].items()]
    start = f"start until every worker is READY, median of {len(document['starts'])}"
    rows += [
        (f"whole image, {document['device']}", f"{document['bytes'] / 1e9:.2f} GB"),
        (f"{start} (goal: {document['goal_seconds']:.0f} s)", f"{document['ready_seconds']:.1f} s"),
    ]
    caption = f"`{document['command']}`: files, uncompressed; a narrow ResNet-18-D at 64 x 64."
    return table(["part", "size or time"], rows) + f"\n\n{caption}"
