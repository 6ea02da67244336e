"""The tables on large numbers of images: bulk prediction, and an epoch over shards; and the training loop's rate."""

from collections.abc import Mapping
from typing import Any

from benchmarks.pages.markdown import of_result, table


@of_result("score.json")
def score(document: Mapping[str, Any]) -> str:
    """Make the table of `make score`: its rate, its memory, and what kills cost."""
    (small, large), kills, goals = document["images"], document["kills"], document["goals"]
    peaks, whole = document["peak_anonymous_mb"], document["large"]
    same = "the same table" if kills["equal"] and not kills["images_in_two_rows"] else "**another table**"
    rows = [
        [
            f"{large:,} images against the same parts without a table, {document['processes']} processes",
            f"{whole['score']:,.0f} of {whole['ceiling']:,.0f} images/s: **{100 * document['ratio']:.1f} %**",
            f"{100 * goals['rate']:.0f} %",
        ],
        [
            f"{small:,} images, median of {len(document['turns'])} turns",
            f"**{100 * document['ratio_of_turns']:.1f} %**",
            "",
        ],
        [
            f"anonymous memory of all processes, {small:,} and {large:,} images",
            f"{peaks[str(small)]:.0f} and {peaks[str(large)]:.0f} MB: **{document['ratio_of_memory']:.2f}x**",
            f"{goals['memory']:.1f}x",
        ],
        [f"{kills['images']:,} images, killed {kills['kills']} times", f"{same}, {kills['rows']:,} rows", "the same"],
    ]
    return table(["`make score`", "value", "goal"], rows) + (
        "\n\nGenerated JPEG files of 64 x 64 and the narrow ResNet-18-D. Both rates include the start of the processes."
    )


@of_result("epoch.json")
def epoch(document: Mapping[str, Any]) -> str:
    """Make the table of an epoch over shards: its memory, and the rate of its loader."""
    first, last = document["runs"][0], document["runs"][-1]
    rates, goals = document["loader"], document["goals"]
    low, high = rates["ratio_range"]
    pace, share = rates["images_per_second"], f"**{100 * rates['ratio']:.1f} %** ({100 * low:.1f} to {100 * high:.1f})"
    memory = f"{first['peak_anonymous_mb']:.0f} and {last['peak_anonymous_mb']:.0f} MB"
    rows = [
        [
            f"anonymous memory of all processes, {first['images']:,} and {last['images']:,} images",
            f"{memory}: **{document['ratio_of_memory']:.2f}x**",
            f"{goals['memory']:.1f}x",
        ],
        [
            "loader that decodes, against one batch that stays on the device (range)",
            f"{pace['loader']:,.0f} of {pace['resident']:,.0f} images/s: {share}",
            f"{100 * goals['loader']:.0f} %",
        ],
    ]
    return table(["training from shards of encoded images, ResNet-18 at 64 x 64", "value", "goal"], rows)


@of_result("reference_loop.json")
def reference_loop(document: Mapping[str, Any]) -> str:
    """Make the table of the training rate beside the loop that training scripts have in common."""
    pace, ratios = document["images_per_second"], document["ratios"]
    rows = [[f"`make train`, {document['precision']}", f"{pace['sightline']:.1f}", "", ""]]
    for name, title in (
        ("reference", "reference loop as it is: float32"),
        ("reference, best", "reference loop, bf16 and channels-last"),
    ):
        low, high = ratios[name]["range"]
        ratio = f"**{ratios[name]['median']:.2f}x** ({low:.2f} to {high:.2f})"
        rows.append([title, f"{pace[name]:.1f}", ratio, f"{document['goals'][name]:.1f}x"])
    size, batch = document["image_size"], document["batch_size"]
    head = [f"training ResNet-18, {size} x {size}, batches of {batch}", "images/s", "`make train` against it", "goal"]
    return table(head, rows) + (
        f"\n\nMedian of {document['rounds']} rounds (range), in turns in one run, on the same JPEG files, random crops "
        "and mirrored. The reference loop is `ImageFolder`, Pillow, torchvision's transforms and a `DataLoader`, as in "
        "pytorch/examples; `make train` reads a data set that was prepared once."
    )
