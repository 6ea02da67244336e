"""Does `make inspect` find labels that were swapped, and copies across the sides of a split?

    python -m benchmarks.inspection RAW_ROOT [--swaps 10] [--copies 5]

RAW_ROOT holds moths/ and petals/ in the layouts of their public sources. Their labelled images are written as class
folders, once for each seed: with 2 % of the labels swapped for a random other one; and up to 950 of them, with 50 of
the training images copied into the test folder of their class, byte by byte, encoded again as JPEG or WebP, resized, or
mirrored. Then `training.data.prepare` and `training.inspection` run as they do for a user. Of the suspected labels, as
many count as were swapped. A pair is false if it is neither a copy of this benchmark nor one of the sets themselves: of
those, same_pictures.json holds the ids, as a person has seen them. Limits, regularisation and folds were chosen on
Places365. The ranking of suspects was chosen with other draws of swapped labels, of these sets too; and false pairs of
petals led to the rule that a near-duplicate is exceptional in its set.

Writes benchmarks/results/inspection.json; the last line is the same JSON document.
"""

import contextlib
import csv
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.harness import console
from benchmarks.result import TRAINING, Origin
from training import scores
from training.data import prepare
from training.data.readers import read
from training.data.records import DatasetError, Record
from training.inspection import __main__ as inspection
from training.inspection import findings

RESULT = Path("benchmarks/results/inspection.json")
SETS = ("moths", "petals")
SHARE = 0.02  # of the labels
IMAGES, COPIES = 950, 50
QUALITIES, SIZES = (30, 90), (0.4, 1.6)  # of JPEG and WebP; factors of width and height
SAME_PICTURES = Path(__file__).with_name("same_pictures.json")

Transform = Callable[[Image.Image, np.random.Generator], Image.Image]


def _resized(image: Image.Image, random: np.random.Generator) -> Image.Image:
    factor = random.uniform(*SIZES)
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


TRANSFORMS: dict[str, Transform] = {
    "encoded again": lambda image, _: image,
    "resized": _resized,
    "mirrored": lambda image, _: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}
KINDS = ("copied", *TRANSFORMS)


class Set:
    """The labelled records of a data set, to be written as class folders."""

    def __init__(self, name: str, raw: Path) -> None:
        self.name, self.raw = name, raw
        self.records = [record for record in read(name, raw).records if record.label is not None]
        self.labels = [str(record.label) for record in self.records]
        self.classes = sorted(set(self.labels))
        pictures: list[list[str]] = json.loads(SAME_PICTURES.read_text(encoding="utf-8"))[name]
        self._pictures = {image: group[0] for group in pictures for image in group}

    def picture(self, number: int) -> str:
        """Return the id of the picture that a record shows: that of the first image of it."""
        return self._pictures.get(self.records[number].id, self.records[number].id)

    def write(self, number: int, label: str, folder: Path) -> str:
        """Write a record's image under a label; return its path in `folder`."""
        record = self.records[number]
        path = f"{record.split}/{self.classes.index(label):03d}/{number:05d}.jpg"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(record.read(self.raw))
        return path


def look(folder: Path, name: str, progress: Console) -> dict[str, list[dict[str, str]]]:
    """Prepare and inspect the class folders in `folder`; return the rows of each file."""
    settings = ("dataset=class_folders", f"name={name}", f"raw={folder}")
    prepare.run(settings, Console(quiet=True, markup=False, emoji=False))
    page = inspection.inspect(settings, Console(quiet=True, markup=False, emoji=False))
    store = Path("data/processed") / name
    files = {"labels": page.with_name(findings.LABELS), "issues": page.with_name(findings.ISSUES)}
    rows = {}
    for title, path in {**files, "left out": store / "left_out.csv"}.items():
        with open(path, newline="", encoding="utf-8") as file:
            rows[title] = list(csv.DictReader(file))
    shutil.rmtree(store)
    progress.print(f"{name}: {len(rows['labels'])} labels, {len(rows['issues'])} images")
    return rows


def swapped_labels(images: Set, seed: int, progress: Console) -> dict[str, int]:
    """Swap labels, inspect, and return the numbers of swapped, of suspected and, among the first, of right ones."""
    random = np.random.default_rng(seed)
    labels, count = list(images.labels), round(SHARE * len(images.labels))
    swapped = set(random.choice(len(labels), count, replace=False).tolist())
    for number in swapped:
        labels[number] = str(random.choice([label for label in images.classes if label != labels[number]]))
    with tempfile.TemporaryDirectory() as folder:
        paths = [images.write(number, label, Path(folder)) for number, label in enumerate(labels)]
        suspects = [row["path"] for row in look(Path(folder), f"{images.name}-swapped-{seed}", progress)["labels"]]
    hits = len({paths[number] for number in swapped} & set(suspects[:count]))
    return {"swapped": count, "suspected": len(suspects), "hits": hits}


def copied_images(images: Set, seed: int, progress: Console) -> dict[str, Any]:
    """Copy images across the sides, inspect, and return which copies and which other pairs were reported."""
    random = np.random.default_rng(seed)
    count = min(IMAGES, len(images.records))
    chosen = random.choice(len(images.records), count, replace=False).tolist()
    train = [number for number in chosen if images.records[number].split == "train"]
    source_of: dict[str, int] = {}
    kind_of: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in chosen:
            source_of[images.write(number, images.labels[number], Path(folder))] = number
        for place, number in enumerate(random.choice(train, COPIES, replace=False).tolist()):
            kind = KINDS[place % len(KINDS)]
            path = _write_copy(images, number, kind, random, Path(folder))
            source_of[path], kind_of[path] = number, kind
        rows = look(Path(folder), f"{images.name}-copied-{seed}", progress)
    pairs = [(row["path"], row["other"]) for row in rows["issues"] if row["other"]]
    # A byte-identical copy is left out by `prepare`, which names it.
    pairs += [
        (row["path"], row["detail"].removeprefix("same content as "))
        for row in rows["left out"]
        if row["reason"] == "also in test"
    ]
    picture_of = {path: images.picture(number) for path, number in source_of.items()}
    named = {path for pair in pairs if picture_of[pair[0]] == picture_of[pair[1]] for path in pair if path in kind_of}
    false = [
        [images.records[source_of[path]].id for path in pair]
        for pair in pairs
        if picture_of[pair[0]] != picture_of[pair[1]]
    ]
    by_kind = {kind: [sum(kind_of[path] == kind for path in part) for part in (named, kind_of)] for kind in KINDS}
    return {
        "images": count,
        "copies": COPIES,
        "named": len(named),
        "kinds": by_kind,
        "pairs": len(pairs),
        "false": false,
    }


def _write_copy(images: Set, number: int, kind: str, random: np.random.Generator, folder: Path) -> str:
    """Write a copy of an image into the test folder of its class; return its path in `folder`."""
    record: Record = images.records[number]
    data, suffix = record.read(images.raw), "jpg"
    if kind in TRANSFORMS:
        with Image.open(io.BytesIO(data)) as image:
            copy = TRANSFORMS[kind](image.convert("RGB"), random)
        suffix = str(random.choice(["jpg", "webp"]))
        buffer = io.BytesIO()
        copy.save(buffer, {"jpg": "JPEG", "webp": "WEBP"}[suffix], quality=int(random.integers(*QUALITIES)))
        data = buffer.getvalue()
    path = f"test/{images.classes.index(images.labels[number]):03d}/copy-{number:05d}.{suffix}"
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(data)
    return path


def measure(raw: Path, swaps: int, copies: int, progress: Console) -> dict[str, Any]:
    """Return a row for each set, of labels and of copies."""
    labels, pairs = [], []
    for name in SETS:
        images = Set(name, raw / name)
        runs = [swapped_labels(images, seed, progress) for seed in range(swaps)]
        first = scores.proportion(sum(run["hits"] for run in runs), sum(run["swapped"] for run in runs))
        labels.append(
            {"set": name, "images": len(images.records), "runs": runs, "right_of_the_first": scores.plain(first)}
        )
        pairs.append({"set": name, "runs": [copied_images(images, seed, progress) for seed in range(copies)]})
    return {"labels": labels, "copies": pairs}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in a temporary folder, and write the result."""
    parser = console.parser("inspection", __doc__)
    parser.add_argument("raw", type=Path, help="folder that holds moths/ and petals/")
    parser.add_argument("--swaps", type=int, default=10, help="seeds of swapped labels for each set")
    parser.add_argument("--copies", type=int, default=5, help="seeds of copied images for each set")
    options = parser.parse_args(arguments)
    command = ["RAW_ROOT", f"--swaps={options.swaps}", f"--copies={options.copies}"]
    origin = Origin("inspection", command, code=TRAINING)
    raw, result = options.raw.absolute(), RESULT.absolute()
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            document = measure(raw, options.swaps, options.copies, console.progress())
    except (DatasetError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return origin.publish(document, result)


if __name__ == "__main__":
    sys.exit(main())
