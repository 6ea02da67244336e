"""The table of docs/kubernetes.md: machines and cost of a load, simulated, with the measurement that checks it."""

from pathlib import Path

from benchmarks.pages.markdown import NOT_MEASURED, load, table

NAMES = {"ours-bf16": "bf16", "ours-int8": "int8"}


def capacity(results: Path) -> str:
    """Make the table."""
    document = load(results / "capacity.json")
    if document is None:
        return NOT_MEASURED
    rows = []
    for figures in document["rows"]:
        measured, simulated, ratios = figures["open"], figures["simulated_open"], figures["ratios"]
        factors = f"{ratios['p50']:.2f} and {ratios['p99']:.2f}"
        costs = [f"{price['dollars'][figures['model']]:.3f}" for price in document["prices"]]
        rows.append(
            (
                NAMES[figures["model"]],
                f"{measured['rate']:.0f}/s: {measured['p50']:.0f} and {measured['p99']:.0f} ms",
                f"{simulated['p50']:.0f} and {simulated['p99']:.0f} ms ({factors} times)",
                f"{figures['usable']:.0f}/s",
                str(figures["machines"]),
                *costs,
            )
        )
    limit = f"99 % within {1000 * document['limit_seconds']:.0f} ms"
    machine = document["measured_on"]
    titles = [
        "precision",
        "measured: median and 99 %",
        "simulated",
        f"one machine, {limit}",
        "machines for 1,000,000 a minute",
    ]
    titles += [f"dollars for 1,000,000, {price['machine']}" for price in document["prices"]]
    caption = (
        f"A machine has {machine['cores']} cores ({machine['processor']}); ResNet-18 at 224 x 224, images of 200 x 200."
    )
    notes = [
        f" {price['machine']}: {price['hour']} dollars an hour ([read on {price['date']}]({price['source']})); "
        f"{price['note']}."
        for price in document["prices"]
    ]
    return table(titles, rows) + f"\n\n{caption}{''.join(notes)}"
