"""The tables on data sets and training, from raw images to a trained network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.pages.markdown import NOT_MEASURED, load, of_result, percent, table

TITLES = {
    "fingers": "Fingers",
    "asl": "ASL alphabet, random tenth held out",
    "asl-blocks": "ASL alphabet, blocks of frames held out",
    "petals": "Petals to the Metal, its test file",
    "petals-folds": "Petals to the Metal, five-fold, pooled",
    "moths": "Moths, their test folder",
    "moths-folds": "Moths, five-fold, pooled",
    "places365": "Places365, 96 classes x 72 images",
    "moths-lite1-folds": "Moths, five-fold, pooled, linear head on EfficientNet-Lite1",
    "moths-lite2-folds": "Moths, five-fold, pooled, linear head on EfficientNet-Lite2",
    "moths-resnet18-folds": "Moths, five-fold, pooled, ResNet-18 from scratch",
    "moths-cnn-folds": "Moths, five-fold, pooled, own CNN from scratch",
    "petals-scratch-folds": "Petals to the Metal, five-fold, pooled, from scratch",
    "moths-scratch-folds": "Moths, five-fold, pooled, from scratch",
    "places365-scratch": "Places365, 96 classes x 72 images, from scratch",
}
IN_SHORT = ("fingers", "asl", "asl-blocks", "petals-folds", "moths-folds", "places365")  # the README's rows


def real(results: Path) -> str:
    """Make the full table of accuracy: every real data set from raw files to served answers."""
    documents = [(title, load(results / "real" / f"{name}.json")) for name, title in TITLES.items()]
    rows = []
    for title, document in documents:
        if document is None:
            rows.append([title, "not measured"])
            continue
        images, served = document["images"], document.get("served")
        size = document["image_size"]
        agree = (
            f"{100 * served['top1']:.2f} % in {served['precision']}; {served['agree']:,} of {served['images']:,} agree"
            if served
            else "not served"
        )
        rows.append(
            [
                title,
                f"{images['train'] + images['validation']:,}",
                f"{images['test']:,}",
                str(document["classes"]),
                f"{document['network']}{', pretrained' * document.get('pretrained', False)}, {size} x {size}",
                f"{document['parameters'] / 1e6:.2f} M",
                _time(document),
                percent(document["top_1"]),
                _int8(document),
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
        "top-1 that int8 loses (95 % interval)",
        "served top-1 over REST",
    ]
    there = [document for _, document in documents if document is not None]
    if not there:
        return NOT_MEASURED
    note = (
        "\n\nFive-fold rows: the training images are those of one fold, the training time is the slowest fold's, and "
        "the test images are all labelled images, each answered by the network that was not trained on it. "
        "Served answers are compared in the precision of the evaluation, not in the faster one that a server chooses "
        "by default. One run each. `python -m benchmarks.real RAW_ROOT` repeats it."
    )
    return table(head, rows) + note


def _int8(document: Mapping[str, Any]) -> str:
    """Return what int8 loses: of folds on the test images, of a single run on its validation images."""
    int8 = document.get("int8") or (document.get("export") or {}).get("int8") or {}
    return _range(int8["top1_lost"], 1) if int8.get("top1_lost") else "not measured"


def accuracy(results: Path) -> str:
    """Make the README's table of accuracy: a row for each protocol of `IN_SHORT`."""
    documents = [(name, load(results / "real" / f"{name}.json")) for name in IN_SHORT]
    rows = [
        [TITLES[name], *([NOT_MEASURED] if document is None else [percent(document["top_1"]), _time(document)])]
        for name, document in documents
    ]
    first = next((document for _, document in documents if document is not None), None)
    if first is None:
        return NOT_MEASURED
    scratch = [name for name, document in documents if document and not document.get("pretrained", False)]
    pretrained = "" if len(scratch) == len(documents) else "The networks start from ImageNet weights"
    if scratch and pretrained:
        # A data set with one row from nothing, and one from pretrained weights, is named with its protocol.
        pretrained_sets = {TITLES[name].partition(",")[0] for name, _ in documents if name not in scratch}
        titles = [TITLES[name].partition(",") for name in scratch]
        names = [data_set + (comma + side) * (data_set in pretrained_sets) for data_set, comma, side in titles]
        pretrained += f", those of {' and '.join(dict.fromkeys(names))} from nothing"
    start = f"{pretrained}. One run each" if pretrained else "One run each, from scratch"
    note = f"\n\n{start}, on {first['machine']['processor']}."
    return table(["data set", "test top-1 (95 % interval)", "training time"], rows) + note


def _time(document: Mapping[str, Any]) -> str:
    cores = document["machine"]["cores"]
    return f"{_duration(document['train_seconds'])}, {cores} core{'s' if cores > 1 else ''}"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


@of_result("fewest.json")
def fewest(document: Mapping[str, Any]) -> str:
    """Make the table of the smallest networks and fewest images that learn the Fingers data set."""
    rows = [
        [
            str(point["width"]),
            f"{point['parameters']:,}",
            f"{point['images_per_class']:,}",
            f"{100 * point['validation_top_1']:.2f} %",
            percent(point["test"]),
        ]
        for point in document["chosen"]
    ]
    return table(["width", "parameters", "images a class", "validation top-1", "test top-1 (95 % interval)"], rows)


@of_result("few_images.json")
def few_images(document: Mapping[str, Any]) -> str:
    """Make the table of accuracy by the number of training images of each class, and of what training starts from."""
    sections = document["sections"]
    numbers = sorted({row["images_per_class"] for section in sections.values() for row in section["rows"]})
    rows = []
    for name in sorted(sections):
        scores = {row["images_per_class"]: percent(row["top_1"]) for row in sections[name]["rows"]}
        tests = max(row["test_images"] for row in sections[name]["rows"])
        rows.append([f"{name}, {tests:,} test images", *(scores.get(number, NOT_MEASURED) for number in numbers)])
    head = ["test top-1 (95 % interval)", *(f"at most {number} a class" for number in numbers)]
    return table(head, rows)


@of_result("up.json")
def up(document: Mapping[str, Any]) -> str:
    """Make the table of `make up`: the first answer, a class added, and the second stage."""
    turns, old = document["turns"], document["old_classes"]
    added = [turn["added_class"] for turn in turns]
    rows = [
        ["first answer after the command, an empty folder", f"{document['first_answer_s']:.0f} s, the slowest turn"],
        [
            "first answer after the command, one class added",
            f"{document['added_answer_s']:.0f} s, the slowest turn",
        ],
        [
            "test images of the old classes that both served networks answered",
            f"{old['images']:,}: right before {old['right_before']:,}, after {old['right_after']:,}",
        ],
        ["top-1 that the old classes lose (95 % interval)", _range(old["loss"], 1)],
        [
            "test images of the added class",
            f"{sum(one['right'] for one in added)} of {sum(one['images'] for one in added)} right",
        ],
    ]
    for number, turn in enumerate(turns, 1):
        if "fine_tuning" not in turn:
            continue
        tuned = turn["fine_tuning"]
        deployed = tuned["deployed"]
        verdict = "deployed" if deployed["deploys"] else "not deployed: it was not better on the validation images"
        rows += [
            [
                f"second stage of turn {number}, MINUTES={tuned['minutes']:g}, from the command to the end",
                f"{tuned['seconds'] / 60:.1f} min, {verdict}",
            ],
            [
                f"test top-1 of the first and of the second stage of turn {number}",
                " and ".join(map(percent, tuned["top_1"])),
            ],
        ]
    head = [f"make up, {document['classes']} classes, {len(turns)} turns", "value"]
    return table(head, rows)


@of_result("prepare.json")
def prepare(document: Mapping[str, Any]) -> str:
    """Make the table of the cost of preparing by the number of images."""
    rows = [
        [f"{row['images']:,}", f"{row['milliseconds_per_image']:.2f} ms", f"{row['peak_anonymous_mb']:.0f} MB"]
        for row in document["runs"]
    ]
    return table(["images", "time an image", "peak anonymous memory, all processes"], rows)


@of_result("training.json")
def training(document: Mapping[str, Any]) -> str:
    """Make the table of the training rate with the loader against a resident batch."""
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
    return table(head, rows) + "\n\nBoth kinds are augmented; they alternate in one run."


@of_result("inspection.json")
def inspection(document: Any) -> str:
    """Make the table of findings of an inspection: swapped labels, and copies across the sides of a split."""
    rows = []
    for labels, copies in zip(document["labels"], document["copies"], strict=True):
        runs, copied = labels["runs"], copies["runs"]
        named, false = ([run[key] for run in copied] for key in ("named", "false"))
        images = max(run["images"] + run["copies"] for run in copied)
        rows.append(
            [
                labels["set"].capitalize(),
                f"{percent(labels['right_of_the_first'])}, {len(runs)} x {runs[0]['swapped']} of {labels['images']:,}",
                f"at least {min(named)} of {copied[0]['copies']}, {len(copied)} times",
                f"{max(map(len, false))} among {images:,} images",
            ]
        )
    return table(["data set", "right of the first suspects", "copies named", "false pairs, at most"], rows)


@of_result("familiarity.json")
def familiarity(document: Mapping[str, Any]) -> str:
    """Make the tables of familiarity: how well it separates other images, other banks, and its cost."""
    rows = [
        [
            f"{row['known']} against {row['other']}",
            *(_range(row[name], 1) for name in ("auroc", "familiar_known", "familiar_other")),
        ]
        for row in document["rows"]
    ]
    head = ["test images against others", "AUROC", "familiar test images", "familiar others"]
    banks = [
        [bank["bank"], *(f"{100 * bank[name]:.1f} %" for name in ("auroc_species", "auroc_petals"))]
        for bank in document["banks"]
    ]
    costs = [
        [
            f"{cost['precision']}, batch {cost['batch']}",
            *(f"{cost['cpu_milliseconds'][name]:.2f}" for name in ("none", "bank")),
            *(_range(cost["ratio_to_none"][name], 1) for name in ("bank", "again")),
        ]
        for cost in document["costs"]
    ]
    cost_head = ["a request in", "processor ms without a bank", "with", "with / without", "without / the same again"]
    bank_head = ["bank and distance", "AUROC, moths against a fifth of their species", "moths against petals"]
    note = (
        f"Features of the frozen {document['network']}; mean of {document['seeds']} seeds (range). AUROC is the chance "
        "that an image of the others is farther away than a test image."
    )
    cost_note = (
        "One JPEG file of moths, decoded, classified and answered by a worker's service, without TorchServe's part; "
        f"median of {document['costs'][0]['pairs']} interleaved pairs (95 % interval)."
    )
    return "\n\n".join((table(head, rows), note, table(bank_head, banks), table(cost_head, costs), cost_note))


def _range(estimate: Mapping[str, float], digits: int) -> str:
    value, low, high = (100 * estimate[name] for name in ("value", "low", "high"))
    return f"{value:.{digits}f} % ({low:.{digits}f} to {high:.{digits}f})"
