"""The page of the GPU report, its result as tables in Markdown, and the README's table of it."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.markdown import NOT_MEASURED, load, machine, table

GOALS = {
    "200x200": 10_000.0,  # requests/s, ResNet-50
    "640x480": 8_000.0,
    "p99_ms": 30.0,
    "stock_defaults": 10.0,  # times its rate
    "stock_best": 4.0,
    "in_process": 0.8,  # of the slowest stage
    "preprocess": 20_000.0,  # images/s, 640 x 480
    "same_top1": 0.998,
    "training": 0.9,  # of a resident batch
}


def page(document: Mapping[str, Any]) -> str:
    """Return the page; what was not measured is said."""
    sections = document["sections"]
    parts = [
        "# What a GPU reaches",
        f"{'A rehearsal on the CPU: these figures claim nothing. ' if document['rehearsal'] else ''}"
        f"`{document['command']}`, {document['seconds']:.0f} s. {machine(dict(document))}."
        + (f" GPU: {document['machine']['gpu']}." if "gpu" in document["machine"] else ""),
    ]
    for title, name, make in (
        ("Each stage alone, ResNet-50", "ceilings", _ceilings),
        ("Each stage alone, ResNet-18", "ceilings of a small network", _ceilings),
        ("Over REST, ResNet-50", "served", _served),
        ("Training, ResNet-18", "training", _training),
    ):
        parts += [f"## {title}", make(sections[name]) if name in sections else NOT_MEASURED]
        if name in document["reasons"]:
            parts.append(f"Why: {document['reasons'][name]}")
    return "\n\n".join(parts) + "\n"


def gpu(results: Path) -> str:
    """Make the README's table: what is served, of the page of benchmarks/results/gpu.json."""
    document = load(results / "gpu.json")
    if document is None or "served" not in document["sections"]:
        return NOT_MEASURED
    return f"{_served(document['sections']['served'])}\n\n`{document['command']}`. {machine(dict(document))}."


def _ceilings(found: Mapping[str, Any]) -> str:
    rows = []
    for body, stages in found["bodies"].items():
        rows += [[body, f"decode: {name}", f"{value:,.0f}"] for name, value in stages["decode"].items()]
        for name in ("decode and resize on the CPU", "all, in process"):
            rows.append([body, name, f"{stages[name]:,.0f}"])
        rows += [[body, name, f"{value:,.0f}"] for name, value in stages["preprocess"].items()]
    for row in found.get("network", []):
        stage = f"network, {row['precision']}, batch {row['batch']}{', CUDA graph' if row['graph'] else ''}"
        rows.append(["", stage, f"{row['images_per_second']:,.0f}"])
    if "copies" in found:
        rows.append(["", "copies to the device", f"{found['copies']:,.0f}"])
    return "\n\n".join([table(["body", "stage", "images/s"], rows), *_judged(found)])


def _judged(found: Mapping[str, Any]) -> Iterator[str]:
    """Say what the goals ask of the stages: the whole against the slowest of them, and the answers."""
    network = max((row["images_per_second"] for row in found.get("network", [])), default=math.inf)
    for body, stages in found["bodies"].items():
        slowest = min(max(stages["decode"].values()), stages["preprocess"]["resize, crop and normalise"], network)
        share = stages["all, in process"] / slowest
        yield f"{body}: all of it in process reaches {share:.2f} of its slowest stage (goal {GOALS['in_process']:g})."
    if same := found.get("agreement"):
        yield (
            f"{100 * same['same_top1']:.2f} % of {same['images']} labels are those of float32 on the CPU, where "
            f"libjpeg decodes (goal {100 * GOALS['same_top1']:g} %)."
        )


def _served(found: Mapping[str, Any]) -> str:
    rows = [[f"Sightline, {row['workers']} worker(s)", *_cells(row)] for row in found["ours"]]
    rows += [[f"image_classifier, {row['setting']}", *_cells(row)] for row in found["stock"]]
    head = ["server", "body", "connections", "requests/s", "p50, ms", "p99, ms", "failed", "GPU, %", "memory, MB"]
    parts = [table(head, rows), *_against(found)]
    for name, said in (("many", "requests of all bodies"), ("swap", "requests beside a deployment")):
        if name in found:
            row = found[name]
            memory = ""
            if "memory_first_mb" in row:
                memory = f", device memory {row['memory_first_mb']:,.0f} -> {row['memory_last_mb']:,.0f} MB"
            parts.append(f"{row['requests']:,} {said}: {row['failed']} failed{memory}.")
    parts += [f"{name}: not measured: {why}" for name, why in found["reasons"].items()]
    return "\n\n".join(parts)


def _cells(row: Mapping[str, Any]) -> list[str]:
    latencies = [f"{row[name]:.1f}" for name in ("p50", "p99")]
    gpu = [f"{row[name]:,.0f}" if name in row else "" for name in ("utilization_percent", "memory_most_mb")]
    failed = str(row["refused"] + row["broken"])
    return [row["body"], str(row["connections"]), f"{row['requests_per_second']:,.0f}", *latencies, failed, *gpu]


def _against(found: Mapping[str, Any]) -> Iterator[str]:
    """Say how much faster ours is than the stock handler at each of its settings, of the best rows of each body."""
    for setting in dict.fromkeys(row["setting"] for row in found["stock"]):
        for body in dict.fromkeys(row["body"] for row in found["ours"]):
            ours = max(row["requests_per_second"] for row in found["ours"] if row["body"] == body)
            rows = [row for row in found["stock"] if (row["setting"], row["body"]) == (setting, body)]
            theirs = max((row["requests_per_second"] for row in rows), default=0.0)
            if theirs:
                yield f"{body}: {ours / theirs:.1f} times image_classifier, {setting}."


def _training(found: Mapping[str, Any]) -> str:
    rows = [[kind, f"{value:,.0f}"] for kind, value in found["images_per_second"].items()]
    said = (
        f"{found['network']}, {found['image_size']} x {found['image_size']}, batches of {found['batch_size']}, "
        f"{found['precision']}: the loader reaches {found['ratio']:.2f} of a resident batch "
        f"(goal {GOALS['training']:g})."
    )
    return "\n\n".join([table(["batches", "images/s"], rows), said])
