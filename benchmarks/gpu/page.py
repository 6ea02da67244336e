"""The page of the GPU report, its result as tables in Markdown, and the table of docs/gpu.md."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages.markdown import NOT_MEASURED, load, machine, table

Row = tuple[str, str, str, str]
ALL = "all, in process"  # in parts, as in a worker
RESIZED = "resize, crop and normalise"  # the stage of the goal of preprocessing
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
    "to_accuracy": 15.0,  # seconds
    "memory_growth": 0.01,  # of the device memory in use, over 100,000 requests and a deployment
}


def page(document: Mapping[str, Any]) -> str:
    """Return the page, with the reasons of missing figures."""
    sections = document["sections"]
    parts = [
        "# What a GPU reaches",
        f"{'A rehearsal on the CPU: these figures claim nothing. ' if document['rehearsal'] else ''}"
        f"`{document['command']}`, {document['seconds']:.0f} s. {machine(dict(document))}."
        + (f" GPU: {document['machine']['gpu']}." if "gpu" in document["machine"] else ""),
    ]
    parts += ["## What was to be reached", goals(sections)]
    titled = set()
    for title, name, make in (
        ("Each stage alone, ResNet-50", "ceilings", _ceilings),
        ("Each stage alone, ResNet-18", "ceilings of a small network", _ceilings),
        ("Each stage alone, EfficientNet-Lite0", "ceilings of EfficientNet-Lite0", _ceilings),
        ("Over REST, ResNet-50", "served", _served),
        ("Training, ResNet-18", "training", _training),
    ):
        parts += [f"## {title}", make(sections[name]) if name in sections else NOT_MEASURED]
        titled.add(name)
        if name in document["reasons"]:
            parts.append(f"Why: {document['reasons'][name]}")
        for stage, reason in sections.get(name, {}).get("reasons", {}).items():
            parts.append(f"{stage}: not measured: {reason}")
    parts += [f"{name}: {reason}" for name, reason in document["reasons"].items() if name not in titled]
    return "\n\n".join(parts) + "\n"


def gpu(results: Path) -> str:
    """Make the table of docs/gpu.md: goals and served rates of benchmarks/results/gpu.json."""
    document = load(results / "gpu.json")
    if document is None or "served" not in document["sections"]:
        return NOT_MEASURED
    return "\n\n".join([goals(document["sections"]), _served(document["sections"]["served"])])


def goals(sections: Mapping[str, Any]) -> str:
    """Make the table of goals, including those not measured."""
    rows = [*_of_served(sections.get("served", {})), *_of_stages(sections.get("ceilings", {}))]
    same = sections.get("ceilings of a small network", {}).get("agreement", {}).get("same_top1")
    rows.append(_row("labels as float32 on the CPU gives them", "same_top1", same, lambda x: f"{x:.2%}"))
    training = sections.get("training", {}).get("ratio")
    rows.append(_row("training, of a resident batch", "training", training, lambda x: f"{x:.2f}"))
    rows.append(_to_accuracy(sections.get("time to accuracy", {})))
    return table(["target", "goal", "measured", "met"], rows)


def _to_accuracy(result: Mapping[str, Any]) -> Row:
    """Return the row of the real ASL set; figures of drawn frames do not count."""
    target, goal = "the real ASL set from scratch to 99.5 %", f"at most {GOALS['to_accuracy']:g} s"
    if not result.get("real"):
        return target, goal, NOT_MEASURED, ""
    seconds = result["seconds_to_goal"]
    if seconds is None:
        return target, goal, f"not reached: {result['best']:.2%} in {result['seconds']:.1f} s", "no"
    return target, goal, f"{seconds:.1f} s", "yes" if seconds <= GOALS["to_accuracy"] else "no"


def _row(target: str, goal: str, value: float | None, show: Callable[[float], str]) -> Row:
    limit = f"at least {show(GOALS[goal])}"
    if value is None:
        return target, limit, NOT_MEASURED, ""
    return target, limit, show(value), "yes" if value >= GOALS[goal] else "no"


def _of_served(result: Mapping[str, Any]) -> Iterator[Row]:
    ours, stock = result.get("ours", []), result.get("stock", [])
    for body in ("200x200", "640x480"):
        rows = [row for row in ours if row["body"].startswith(body) and row["p99"] <= GOALS["p99_ms"]]
        best = max((row["requests_per_second"] for row in rows), default=None)
        target = f"ResNet-50, {body}, 99 % of answers within {GOALS['p99_ms']:g} ms"
        yield _row(target, body, best, lambda x: f"{x:,.0f} requests/s")
    for target, goal, compared in (
        ("image_classifier as it comes", "stock_defaults", [row for row in stock if row["setting"] == "defaults"]),
        ("image_classifier at its best", "stock_best", stock),
    ):
        bodies = {row["body"] for row in compared} & {row["body"] for row in ours}
        times = [_best(ours, body) / _best(compared, body) for body in bodies if _best(compared, body)]
        yield _row(target, goal, min(times, default=None), lambda x: f"{x:.1f} times")
    for name, target, requests in (("many", "100,000 requests", 100_000), ("swap", "a deployment under load", 1)):
        yield _flat(target, requests, result.get(name, {}))


def _best(rows: Sequence[Mapping[str, Any]], body: str) -> float:
    return max(float(row["requests_per_second"]) for row in rows if row["body"] == body)


def _flat(target: str, requests: int, result: Mapping[str, Any]) -> Row:
    """Return the row of failures and growth of memory over at least `requests` requests."""
    goal = f"0 failed, memory at most {GOALS['memory_growth']:.0%} more"
    if "memory_first_mb" not in result:
        return target, goal, NOT_MEASURED, ""
    growth = result["memory_last_mb"] / result["memory_first_mb"] - 1
    met = result["failed"] == 0 and growth <= GOALS["memory_growth"] and result["requests"] >= requests
    return target, goal, f"{result['failed']} of {result['requests']:,} failed, {growth:+.1%}", "yes" if met else "no"


def _of_stages(ceilings: Mapping[str, Any]) -> Iterator[Row]:
    bodies = ceilings.get("bodies", {})
    shares = [share for stages in bodies.values() if (share := _share(ceilings, stages)) is not None]
    yield _row("all in process, of its slowest stage", "in_process", min(shares, default=None), lambda x: f"{x:.2f}")
    rates = [
        stages["preprocess"][RESIZED]
        for body, stages in bodies.items()
        if body.startswith("640x480") and "preprocess" in stages
    ]
    target = "preprocessing alone, Kornia's normalising included, 640 x 480"
    yield _row(target, "preprocess", min(rates, default=None), lambda x: f"{x:,.0f} images/s")


def _share(ceilings: Mapping[str, Any], stages: Mapping[str, Any]) -> float | None:
    """Return the rate of all stages in process relative to the slowest stage, if every stage was measured."""
    network = max((row["images_per_second"] for row in ceilings["network"]), default=None)
    if network is None or not stages["decode"] or not {"preprocess", ALL} <= set(stages):
        return None
    slowest = min(max(stages["decode"].values()), stages["preprocess"][RESIZED], network)
    return float(stages[ALL] / slowest)


def _ceilings(ceilings: Mapping[str, Any]) -> str:
    rows = []
    for body, stages in ceilings.get("bodies", {}).items():
        rates = {f"decode: {name}": value for name, value in stages["decode"].items()}
        rates |= {name: value for name, value in stages.items() if isinstance(value, float)}
        rows += [[body, name, f"{value:,.0f}"] for name, value in (rates | stages.get("preprocess", {})).items()]
    for row in ceilings.get("network", []):
        stage = f"network, {row['precision']}, batch {row['batch']}{', CUDA graph' if row['graph'] else ''}"
        rows.append(["", stage, f"{row['images_per_second']:,.0f}"])
    if "copies" in ceilings:
        rows.append(["", "copies to the device", f"{ceilings['copies']:,.0f}"])
    parts = [table(["body", "stage", "images/s"], rows)]
    profiles = {body: stages["profile"] for body, stages in ceilings.get("bodies", {}).items() if "profile" in stages}
    return "\n\n".join([*parts, *(_profile(body, profile) for body, profile in profiles.items())])


def _profile(body: str, profile: Mapping[str, Any]) -> str:
    rows = [[name, f"{value:.2f}", ""] for name, value in profile["milliseconds"].items()]
    rows += [[f"`{row['name']}`", f"{row['milliseconds']:.3f}", f"{row['calls']:g}"] for row in profile["kernels"]]
    head = [f"a batch of {profile['batch']}, {body}: stages, then kernels", "ms", "calls"]
    note = f"Each stage is waited for; without that the batch takes {profile['without_clocks']:.2f} ms."
    return "\n\n".join([table(head, rows), note])


def _served(result: Mapping[str, Any]) -> str:
    rows = [[f"Sightline, {row['workers']} worker(s)", *_cells(row)] for row in result["ours"]]
    rows += [[f"image_classifier, {row['setting']}", *_cells(row)] for row in result["stock"]]
    head = ["server", "body", "connections", "requests/s", "p50, ms", "p99, ms", "failed", "GPU, %", "memory, MB"]
    parts = [table(head, rows)]
    for name, title in (("many", "requests of all bodies"), ("swap", "requests beside a deployment")):
        if name in result:
            row = result[name]
            memory = ""
            if "memory_first_mb" in row:
                memory = f", device memory {row['memory_first_mb']:,.0f} -> {row['memory_last_mb']:,.0f} MB"
            parts.append(f"{row['requests']:,} {title}: {row['failed']} failed{memory}.")
    return "\n\n".join(parts)


def _cells(row: Mapping[str, Any]) -> list[str]:
    latencies = [f"{row[name]:.1f}" for name in ("p50", "p99")]
    gpu = [f"{row[name]:,.0f}" if name in row else "" for name in ("utilization_percent", "memory_most_mb")]
    failed = str(row["refused"] + row["broken"])
    return [row["body"], str(row["connections"]), f"{row['requests_per_second']:,.0f}", *latencies, failed, *gpu]


def _training(result: Mapping[str, Any]) -> str:
    rows = [[kind, f"{value:,.0f}"] for kind, value in result["images_per_second"].items()]
    note = (
        f"{result['network']}, {result['image_size']} x {result['image_size']}, batches of {result['batch_size']}, "
        f"{result['precision']}: the loader reaches {result['ratio']:.2f} of a resident batch."
    )
    return "\n\n".join([table(["batches", "images/s"], rows), note])
