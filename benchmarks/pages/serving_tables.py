"""The tables on serving: rates against other servers, and the cost of each part."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.comparison.figures import SMALL, WORDS, Figures, rates, targets, words
from benchmarks.pages.markdown import NOT_MEASURED, load, machine, of_result, table
from benchmarks.result import BUSY
from serving.store import model_config

CHART = "../benchmarks/results/serving.svg"  # from a page of docs/
MOST_CONNECTIONS = 64
IN_SHORT = ("ours-int8", "ours-bf16", "litserve-ours", "litserve-documented", "stock-best")  # the README's rows


def serving(results: Path) -> str:
    """Make the tables of serving: rates of ours and of every peer, the chart, and the targets."""
    path = results / "serving.json"
    document = load(path)
    if document is None:
        return NOT_MEASURED
    chart = f"\n\n![Requests per second]({CHART})" if path.with_suffix(".svg").is_file() else ""
    quiet = document["elsewhere_cores"] <= BUSY
    notes = [*_notes_on_rows(document), _conditions(document), *changed(document.get("archive", {}))]
    if not quiet:
        notes.append(f"Other programs used more than {BUSY} cores, so no goal is called met or missed.")
    measured = targets(Figures(document["cells"], document["open"]), quiet=quiet)
    goals = table(WORDS, [words(target) for target in measured])
    return _rates(document) + chart + "\n\n" + "\n".join(f"- {note}" for note in notes) + "\n\n" + goals


def _rates(document: Mapping[str, Any]) -> str:
    """Make the table of the rows that were measured with every body."""
    bodies, connections = document["bodies"], document["connections"]
    rows = []
    for row in document["rows"]:
        if row["reason"] is None and row["full"]:
            cells = document["cells"].get(row["name"], {})
            title = f"**{row['title']}**" if row["ours"] else row["title"]
            rows.append([title, row["precision"], *(rates(cells.get(body, {}), connections) for body in bodies)])
    numbers = " / ".join(map(str, connections))
    head = [f"requests/s at {numbers} connections", "precision"]
    head += [f"{body}, {about['kilobytes']:,.0f} KB" for body, about in bodies.items()]
    return table(head, rows)


def _notes_on_rows(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each row outside the table: no measurement, or only with some bodies."""
    for row in document["rows"]:
        if row["reason"] is not None:
            yield f"{row['title']}: not measured ({row['reason']})."
        elif not row["full"]:
            cells = document["cells"].get(row["name"], {})
            yield from (
                f"{row['title']}, {body}: {rates(loads, document['connections'])}." for body, loads in cells.items()
            )


def _conditions(document: Mapping[str, Any]) -> str:
    return (
        f"A single figure means in process, without a server. Medians of {document['rounds']} rounds over all rows, of "
        f"{document['seconds']:g} s each. {widest(document)} The generator, wrk, took at most "
        f"{document['generator_cores']:.2f} cores, other programs {document['elsewhere_cores']:.2f}."
    )


def changed(measured: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each default of an archive that has changed since the measurement."""
    for name, now in model_config.DEFAULTS.items():
        if name in measured and measured[name] != now and name != "handler":
            yield f"Measured with {name} {measured[name]}; the default is now {now}."


def widest(document: Mapping[str, Any]) -> str:
    """Return a sentence on the row whose rounds differ most: its figures are the least certain."""
    titles = {row["name"]: row["title"] for row in document["rows"]}
    spread, name, body, load = max(
        (cell["spread"], name, body, int(load))
        for name, bodies in document["cells"].items()
        for body, loads in bodies.items()
        for load, cell in loads.items()
    )
    where = f"{titles[name]}, {body}" + (f", {_connections(load)}" if load else "")
    return f"The rounds of one figure differ by {100 * spread:.0f} % of its median at most ({where})."


@of_result("serving.json")
def rates_in_short(document: Mapping[str, Any]) -> str:
    """Make the README's table of rates: ours, the best and the documented LitServe, and stock TorchServe."""
    titles = {row["name"]: (row["title"], row["precision"]) for row in document["rows"]}
    figures = Figures(document["cells"], document["open"])
    rows = []
    for name in (name for name in IN_SHORT if name in titles):
        title, precision = titles[name]
        rate = figures.value(name, SMALL, MOST_CONNECTIONS)
        rows.append([title.partition(" (")[0], precision, NOT_MEASURED if rate is None else f"{rate:,.0f}"])
    head = ["server", "precision", "requests/s"]
    busy = document["elsewhere_cores"]
    note = f"\n\nResNet-18, 224 x 224, {_connections(MOST_CONNECTIONS)}, JPEG of {SMALL}, "
    note += f"on {machine(document, packages=False)}"
    note += "."
    if busy > BUSY:
        note += f" Other programs used up to {busy:.1f} cores of this machine; whether the same ones is not recorded."
    return table(head, rows) + " ".join([note, *changed(document.get("archive", {}))])


@of_result("worker.json")
def worker(document: Mapping[str, Any]) -> str:
    """Make the table of a worker's start and memory."""
    goals = document["goals"]
    started = f"{document['start_seconds']:.1f} s ({min(document['starts']):.1f} to {max(document['starts']):.1f})"
    limit = f"{goals['anonymous_mb']:.0f} MB"
    memory = f"{document['memory'][0]['anonymous_mb']:.0f} MB, then {document['anonymous_mb']:.0f} MB"
    rows = [
        ["from the start of the process to READY, golden images included", started, f"{goals['start_seconds']} s"],
        [f"anonymous memory, before and after {document['requests']:,.0f} requests", memory, limit],
    ]
    note = f"\n\nResNet-18, {document['precision']}, {len(document['starts'])} starts."
    return table(["a worker", "measured", "at most"], rows) + note


@of_result("sweep.json")
def sweep(document: Mapping[str, Any]) -> str:
    """Make the table of settings that were compared."""
    loads = list(document["rows"][0]["ratio"])
    rows = [
        [
            row["title"],
            *(f"{row['ratio'][load]:.2f} ({row['low'][load]:.2f} to {row['high'][load]:.2f})" for load in loads),
        ]
        for row in document["rows"]
    ]
    named = {"large": "16 connections, large images"}
    head = ["setting", *(named.get(load) or _connections(int(load)) for load in loads)]
    note = (
        f"\n\nRequests/s relative to the default, in {document['precision']}: median, lowest and highest of "
        f"{document['number_of_rounds']} pairs of loads. The first row (default against itself) shows the noise."
    )
    return table(head, rows) + note


def _connections(number: int) -> str:
    return f"{number} connection{'s' if number > 1 else ''}"


@of_result("formats.json")
def formats(document: Mapping[str, Any]) -> str:
    """Make the table of the artifact's formats: images/s in process by precision and batch size."""
    pace = {(row["format"], row["precision"], row["batch"]): row["images_per_second"] for row in document["rows"]}
    batches = sorted({batch for _, _, batch in pace})
    rows = [
        [name, precision, *(f"{pace[name, precision, batch]:,.0f}" for batch in batches)]
        for name, precision in dict.fromkeys((name, precision) for name, precision, _ in pace)
    ]
    head = ["artifact, images/s in process", "precision", *(f"batch {batch}" for batch in batches)]
    size = document["image_size"]
    note = (
        f"\n\n{document['network']}, {size} x {size}, {document['classes']} classes, medians of alternating rounds, "
        f"{document['threads']} thread."
    )
    return table(head, rows) + note


@of_result("decoders.json")
def decoders(document: Mapping[str, Any]) -> str:
    """Make the table of decoders: a row each, a column for each format and size."""
    columns = list(dict.fromkeys((row["format"], row["size"]) for row in document["rows"]))
    cells = {(row["decoder"], row["format"], row["size"]): row for row in document["rows"]}

    def cell(decoder: str, kind: str, size: str) -> str:
        row = cells.get((decoder, kind, size))
        if row is None:
            return ""
        text = f"{row['milliseconds']:.2f}"
        best = document["best"].get(f"{kind} {size}") == decoder
        return f"{f'**{text}**' if best else text} ({row['largest_difference']})"

    names = dict.fromkeys(row["decoder"] for row in document["rows"])
    rows = [[name, *(cell(name, *column) for column in columns)] for name in names]
    rows += map(list, document["missing"].items())
    head = ["decoder", *(f"{'WebP' if kind == 'WEBP' else kind} {size}" for kind, size in columns)]
    side, far = document["side"], document["faithful"]
    note = (
        f"\n\nMilliseconds per image to uint8 of {side} x {side}, median of {document['number_of_rounds']} alternating "
        "rounds on one core. In brackets: the largest difference of a pixel from decoding in full, of 255 levels. "
        f"Bold: the fastest whose difference is {far} or less."
    )
    return table(head, rows) + note


@of_result("accuracy_and_rate.json")
def accuracy_and_rate(document: Mapping[str, Any]) -> str:
    """Make the picture and the table of top-1 against requests/s."""
    rows = [
        [
            row["network"],
            row["precision"],
            f"{row['image_size']} x {row['image_size']}",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['top_1']['value']:.2f} % ({row['top_1']['low']:.1f} to {row['top_1']['high']:.1f})",
            f"{row['requests_per_second']:.0f} ({row['range'][0]:.0f} to {row['range'][1]:.0f})",
        ]
        for row in document["rows"]
    ]
    head = ["network", "precision", "input", "parameters", "top-1 of the moths' five folds", "requests/s"]
    picture = "![Top-1 against requests per second](../benchmarks/results/accuracy_and_rate.svg)"
    missing = "".join(f" Not measured: {title}." for title in document["missing"])
    note = (
        f"{document['connections']} connections, median and range of {document['number_of_rounds']} rounds.{missing} "
        "bf16 has the top-1 of fp32: it is not measured apart."
    )
    return f"{picture}\n\n{table(head, rows)}\n\n{note}"


@of_result("networks.json")
def networks(document: Mapping[str, Any]) -> str:
    """Make the table of the speed of each network in each precision, as a multiple of ResNet-18's."""
    rows = {(row["network"], row["precision"], row["batch"]): row for row in document["rows"]}
    pairs = list(dict.fromkeys((precision, batch) for _, precision, batch in rows))
    names = list(dict.fromkeys(name for name, _, _ in rows))
    head = ["network", "parameters", *(f"{precision}, batch {batch}" for precision, batch in pairs)]
    cells = [
        [
            name,
            f"{document['parameters'][name] / 1e6:.2f} M",
            *(
                f"{row['images_per_second']:.0f}; {row['ratio']:.2f} ({row['ratio_range'][0]:.2f} to "
                f"{row['ratio_range'][1]:.2f})"
                for row in (rows[name, precision, batch] for precision, batch in pairs)
            ),
        ]
        for name in names
    ]
    size = document["image_size"]
    note = (
        f"\n\nImages/s in process at {size} x {size} on one core; then the multiple of ResNet-18's in the same round: "
        f"median and range of {document['number_of_rounds']} rounds."
    )
    return table(head, cells) + note


@of_result("int8.json")
def int8(document: Mapping[str, Any]) -> str:
    """Make the table of what int8 gains and costs."""
    batches = list(dict.fromkeys(row["batch"] for row in document["rows"]))
    paces = {(row["kind"], row["batch"]): row["images_per_second"] for row in document["rows"]}
    rows = [
        [
            name,
            *(f"{paces[name, batch]:.0f}" for batch in batches),
            f"{answers['same_top1']} of {answers['images']}",
            f"{answers['largest_difference']:.4f}",
            f"{100 * answers['top1']:.1f} %",
        ]
        for name, answers in document["answers"].items()
    ]
    rows += map(list, document["missing"].items())
    size = document["image_size"]
    head = [
        f"{document['network']}, {size} x {size}",
        *(f"images/s, batch {batch}" for batch in batches),
        "same top-1 as fp32",
        "largest difference of a probability",
        "right",
    ]
    note = (
        f"\n\nMedian of {document['number_of_rounds']} alternating rounds on one core; answers on drawn scenes that "
        "the network, trained for four epochs, was not trained on. The loss of your own run is in its `export.json`."
    )
    return table(head, rows) + note


@of_result("explanations.json")
def explanations(document: Mapping[str, Any]) -> str:
    """Make the tables of explanations: how often a method points at the object, and what one costs."""
    rows = [
        [
            f"{row['network']}; {row['dataset']}, {row['right']} images",
            f"**{method}**" if method == row["method"] else method,
            *(f"{100 * hits[name]:.1f} %" for name in ("near", "on_object")),
        ]
        for row in document["rows"]
        for method, hits in row["hits"].items()
    ]
    areas = ", ".join(f"{100 * row['random']:.0f} %" for row in document["rows"])
    note = f"In bold: the method of a worker. A random point hits {areas} of the images."
    names = ("prediction", "explanation", "predictions", "predictions beside an explanation")
    costs = [
        [
            f"{cost['network']}; {cost['dataset']}",
            *(f"{cost['cpu_milliseconds'][name]:.1f}" for name in names),
            f"{cost['added']:.1f}",
        ]
        for cost in document["costs"]
    ]
    cost_head = ["processor ms of a batch", "1 prediction", "1 explanation", "8 predictions", "8 + 1", "added"]
    cost_note = f"In float32 on one core, without TorchServe's part; medians of {document['costs'][0]['pairs']} turns."
    head = ["network; images", "method", "hits, within 15 pixels of 224", "on the object itself"]
    return "\n\n".join((table(head, rows), note, table(cost_head, costs), cost_note))
