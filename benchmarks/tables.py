"""The tables of README.md: each made from the results of one benchmark, and from nothing else."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving_figures import WORDS, rates, words

RESULTS = Path("benchmarks/results")
NOT_MEASURED = "*Not measured.*"

TITLES = {
    "fingers": "Fingers",
    "asl": "ASL alphabet, random tenth held out",
    "asl-blocks": "ASL alphabet, blocks of frames held out",
    "petals": "Petals to the Metal, its test file",
    "petals-folds": "Petals to the Metal, five-fold, pooled",
    "moths": "Moths, their test folder",
    "moths-folds": "Moths, five-fold, pooled",
    "places365": "Places365, 96 classes x 72 images",
}


def _load(path: Path) -> Any | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; a row that ends early, as that of something missing does, is filled up."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join([*row, *[''] * (len(head) - len(row))])} |" for row in rows)])


def _percent(score: dict[str, float]) -> str:
    return f"**{100 * score['value']:.2f} %** ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def _machine(document: dict[str, Any], *, cores: bool = True) -> str:
    machine, versions = document["machine"], document["versions"]
    named = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    of = f"{machine['cores']} cores of " if cores else ""
    return f"{of}{machine['processor']}, {machine.get('device', 'cpu')}; {named}"


def real(results: Path) -> str:
    """Make the main table: every real data set from raw files to served answers."""
    documents = [(title, _load(results / "real" / f"{name}.json")) for name, title in TITLES.items()]
    rows = []
    for title, document in documents:
        if document is None:
            rows.append([title, "not measured"])
            continue
        images, served = document["images"], document.get("served")
        cores = document["machine"]["cores"]
        time = f"{_duration(document['train_seconds'])}, {cores} core{'s' if cores > 1 else ''}"
        size = document["image_size"]
        agree = (
            f"{100 * served['top1']:.2f} %; {served['agree']:,} of {served['images']:,} agree"
            if served
            else "not served"
        )
        rows.append(
            [
                title,
                f"{images['train'] + images['validation']:,}",
                f"{images['test']:,}",
                str(document["classes"]),
                f"{document['network']}, {size} x {size}",
                f"{document['parameters'] / 1e6:.2f} M",
                time,
                _percent(document["top_1"]),
                agree,
            ]
        )
    head = [
        "data set",
        "training images",
        "test images",
        "classes",
        "network",
        "parameters",
        "training",
        "test top-1 (95 % interval)",
        "served top-1 over REST",
    ]
    there = [document for _, document in documents if document is not None]
    if not there:
        return NOT_MEASURED
    note = (
        "\n\nTraining images of a five-fold row are those of one fold, its training time is the slowest fold's, and "
        "its test images are all labelled ones, each answered by the network that had not seen it. "
        f"One run each, from scratch, on {_machine(there[0], cores=False)}. `python -m benchmarks.real RAW_ROOT`"
    )
    return _table(head, rows) + note


def demo(results: Path) -> str:
    """Make the table of what `make demo` takes in a clean clone."""
    document = _load(results / "demo.json")
    if document is None:
        return NOT_MEASURED
    rows = [
        [
            run["title"],
            f"{run['first_prediction']:.0f} s",
            f"{run['seconds']:.0f} s",
            f"{run['right']} of {run['answers']}",
            _percent(run["top_1"]),
        ]
        for run in document["runs"]
    ]
    head = ["`make demo`", "first served prediction", "all done", "right over REST", "test top-1 (95 % interval)"]
    return _table(head, rows) + f"\n\nIn a clean clone, counted from the end of installing. {_machine(document)}."


def fewest(results: Path) -> str:
    """Make the table of the smallest networks and fewest images that learn the Fingers data set."""
    document = _load(results / "fewest.json")
    if document is None:
        return NOT_MEASURED
    rows = [
        [
            str(point["width"]),
            f"{point['parameters']:,}",
            f"{point['images_per_class']:,}",
            f"{100 * point['validation_top_1']:.2f} %",
            _percent(point["test"]),
        ]
        for point in document["chosen"]
    ]
    return _table(["width", "parameters", "images a class", "validation top-1", "test top-1 (95 % interval)"], rows)


def prepare(results: Path) -> str:
    """Make the table of the cost of preparing by the number of images."""
    document = _load(results / "prepare.json")
    if document is None:
        return NOT_MEASURED
    rows = [
        [f"{row['images']:,}", f"{row['milliseconds_per_image']:.2f} ms", f"{row['peak_anonymous_mb']:.0f} MB"]
        for row in document["runs"]
    ]
    return _table(["images", "time an image", "peak anonymous memory, all processes"], rows)


def training(results: Path) -> str:
    """Make the table of the training rate with the loader against a resident batch."""
    document = _load(results / "training.json")
    if document is None:
        return NOT_MEASURED
    pace, (low, high) = document["images_per_second"], document["ratio_range"]
    size, data = document["image_size"], document["dataset"]
    rows = [
        [f"images/s, {data} images read by the loader", f"{pace['loader']:,.0f}"],
        ["images/s, one batch that stays on the device", f"{pace['resident']:,.0f}"],
        [
            f"loader against resident batch, median of {document['rounds']} rounds (range)",
            f"{100 * document['ratio']:.1f} % ({100 * low:.1f} to {100 * high:.1f})",
        ],
        ["share of the time that augmentation takes", f"{100 * document['augmentation_share']:.1f} %"],
    ]
    head = [f"training {document['network']}, {size} x {size}, batches of {document['batch_size']}", "value"]
    return _table(head, rows) + f"\n\nBoth kinds augment, taking turns in one run. {_machine(document)}."


def formats(results: Path) -> str:
    """Make the table of the artifact's formats: images/s in process by precision and batch size."""
    document = _load(results / "formats.json")
    if document is None:
        return NOT_MEASURED
    pace = {(row["format"], row["precision"], row["batch"]): row["images_per_second"] for row in document["rows"]}
    batches = sorted({batch for _, _, batch in pace})
    rows = [
        [name, precision, *(f"{pace[name, precision, batch]:,.0f}" for batch in batches)]
        for name, precision in dict.fromkeys((name, precision) for name, precision, _ in pace)
    ]
    head = ["artifact, images/s in process", "precision", *(f"batch {batch}" for batch in batches)]
    size = document["image_size"]
    note = (
        f"\n\n{document['network']}, {size} x {size}, {document['classes']} classes, medians of rounds in turns, "
        f"{document['threads']} thread. {_machine(document)}. `{document['command']}`"
    )
    return _table(head, rows) + note


def serving(results: Path) -> str:
    """Make the tables of serving: rates of ours and of every peer, the chart, and the targets."""
    path = results / "serving.json"
    document = _load(path)
    if document is None:
        return NOT_MEASURED
    bodies, connections = document["bodies"], document["connections"]
    rows, notes = [], []
    for row in document["rows"]:
        cells = document["cells"].get(row["name"], {})
        if row["reason"] is not None:
            notes.append(f"{row['title']}: not measured ({row['reason']}).")
        elif row["full"]:
            title = f"**{row['title']}**" if row["ours"] else row["title"]
            rows.append([title, row["precision"], *(rates(cells.get(body, {}), connections) for body in bodies)])
        else:
            notes.extend(f"{row['title']}, {body}: {rates(loads, connections)}." for body, loads in cells.items())
    numbers = " / ".join(map(str, connections))
    head = [f"requests/s at {numbers} connections", "precision"]
    head += [f"{body}, {about['kilobytes']:,.0f} KB" for body, about in bodies.items()]
    spread = max(cell["spread"] for row in document["cells"].values() for of in row.values() for cell in of.values())
    notes.append(
        f"One figure: in process, no server. Medians of {document['rounds']} rounds over all rows, of "
        f"{document['seconds']:g} s each; they differ by at most {100 * spread:.0f} %. The generator, wrk, took at "
        f"most {document['generator_cores']:.2f} cores, other programs {document['elsewhere_cores']:.2f}. "
        f"{_machine(document)}. `{document['command']}`"
    )
    chart = f"\n\n![Requests per second]({RESULTS / 'serving.svg'})" if path.with_suffix(".svg").is_file() else ""
    goals = _table(WORDS, [words(target) for target in document["targets"]])
    return _table(head, rows) + chart + "\n\n" + "\n".join(notes) + "\n\n" + goals


def decoders(results: Path) -> str:
    """Make the table of decoders: a row each, a column for each format and size."""
    document = _load(results / "decoders.json")
    if document is None:
        return NOT_MEASURED
    columns = list(dict.fromkeys((row["format"], row["size"]) for row in document["rows"]))
    cells = {(row["decoder"], row["format"], row["size"]): row for row in document["rows"]}

    def cell(decoder: str, kind: str, size: str) -> str:
        row = cells.get((decoder, kind, size))
        if row is None:
            return ""
        text = f"{row['milliseconds']:.2f}"
        chosen = document["best"].get(f"{kind} {size}") == decoder
        return f"{f'**{text}**' if chosen else text} ({row['largest_difference']})"

    names = dict.fromkeys(row["decoder"] for row in document["rows"])
    rows = [[name, *(cell(name, *column) for column in columns)] for name in names]
    rows += map(list, document["missing"].items())
    head = ["decoder", *(f"{'WebP' if kind == 'WEBP' else kind} {size}" for kind, size in columns)]
    side, far = document["side"], document["faithful"]
    note = (
        f"\n\nMilliseconds an image to uint8 of {side} x {side}, median of {document['number_of_rounds']} rounds in "
        "turns on one core, and in brackets by how many of 255 levels a pixel is off from decoding in full at most; "
        f"bold: the fastest that is off by {far} or less. {_machine(document)}."
    )
    return _table(head, rows) + note


def int8(results: Path) -> str:
    """Make the table of what int8 gains and costs."""
    document = _load(results / "int8.json")
    if document is None:
        return NOT_MEASURED
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
        f"\n\nMedian of {document['number_of_rounds']} rounds in turns on one core; answers on drawn scenes that the "
        "network, trained for four epochs, did not learn from. What int8 costs a run of yours is in its `export.json`. "
        f"{_machine(document)}."
    )
    return _table(head, rows) + note


def profile(results: Path) -> str:
    """Make the table of where a request's time goes."""
    document = _load(results / "profile.json")
    if document is None:
        return NOT_MEASURED
    states = document["rows"]
    rows = [[stage, *(f"{state['stages'][stage]:.2f}" for state in states)] for stage in states[0]["stages"]]
    rows.append(["**the request**", *(f"**{state['milliseconds']:.2f}**" for state in states)])
    rows.append(["requests/s", *(f"{state['requests_per_second']:.0f}" for state in states)])
    rows.append(["images a batch", *(f"{state['images_per_batch']:.1f}" for state in states)])
    head = ["stage, ms", *(_connections(state["connections"]) for state in states)]
    note = (
        f"\n\nMeans; a request waits for its whole batch. JPEG of {document['size']}, the client on the same machine: "
        f"its own work is in the front end's stages. {_machine(document)}."
    )
    return _table(head, rows) + note


def _connections(number: int) -> str:
    return f"{number} connection{'s' if number > 1 else ''}"


def worker(results: Path) -> str:
    """Make the table of a worker's start and memory."""
    document = _load(results / "worker.json")
    if document is None:
        return NOT_MEASURED
    goals = document["goals"]
    started = f"{document['start_seconds']:.1f} s ({min(document['starts']):.1f} to {max(document['starts']):.1f})"
    most = f"{goals['anonymous_mb']:.0f} MB"
    held = f"{document['memory'][0]['anonymous_mb']:.0f} MB, then {document['anonymous_mb']:.0f} MB"
    rows = [
        ["from the start of the process to READY, golden images included", started, f"{goals['start_seconds']} s"],
        [f"anonymous memory, before and after {document['requests']:,.0f} requests", held, most],
    ]
    note = f"\n\nResNet-18, {document['precision']}, {len(document['starts'])} starts. {_machine(document)}."
    return _table(["a worker", "measured", "at most"], rows) + note


def sweep(results: Path) -> str:
    """Make the table of settings that were compared."""
    document = _load(results / "sweep.json")
    if document is None:
        return NOT_MEASURED
    keys = [key for key in document["rows"][0]["median"] if key != "p50"]
    rows = [
        [row["title"], *(f"{row['median'][key]:,.0f}" for key in keys), f"{row['median']['p50']:.1f}"]
        for row in document["rows"]
    ]
    head = ["setting", *(f"{key} connection{'s' if key != '1' else ''}" for key in keys), "median of 1, ms"]
    rounds = len(document["rows"][0]["rounds"])
    note = (
        f"\n\nRequests/s with small images in {document['precision']}, medians of {rounds} rounds in turns. "
        f"{_machine(document)}. `{document['command']}`"
    )
    return _table(head, rows) + note


TABLES: dict[str, Callable[[Path], str]] = {
    "real": real,
    "demo": demo,
    "fewest": fewest,
    "prepare": prepare,
    "training": training,
    "formats": formats,
    "serving": serving,
    "worker": worker,
    "sweep": sweep,
    "decoders": decoders,
    "int8": int8,
    "profile": profile,
}
