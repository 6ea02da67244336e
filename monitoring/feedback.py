"""Join labels that came later to logged answers, and print the accuracy of each version.

    python -m monitoring.feedback birds labels.csv
    python -m monitoring.feedback birds labels.csv --export images  the labelled images, for make up RAW=images

The table has a column `label` and one of `request_id` (and `image`: the place in the request), `sha256` or `path`; of
several, a line is joined by the first that it fills in.
The labels stay in logs/predictions/<model>/labels.jsonl with the answers that they judge, even after the log has lost
those; a later label replaces an earlier one. logs/predictions/<model>/feedback.json has the figures.
"""

import argparse
import collections
import csv
import dataclasses
import datetime as dt
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers import atomic
from handlers.observation import segments
from monitoring import log
from monitoring.log import Row
from serving.errors import ServingError
from serving.rollout import labels as later_labels
from serving.rollout.evidence import wilson
from serving.store import model_store
from serving.store.model_store import Archive, ArchiveError

FIGURES = "feedback.json"
SOURCES = ("request_id", "sha256", "path")  # one of these columns names the images
PAIRS, NAMES = 5, 3  # that a line shows
SUFFIXES = {
    b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp", b"II": ".tif",
    b"MM": ".tif", b"P5": ".ppm", b"P6": ".ppm",
}  # fmt: skip
Key = tuple[str, int]  # request id, and place of the image


class FeedbackError(ServingError):
    """Labels cannot be read, or images not exported; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Accuracy:
    """Right answers among the labelled images of a version, with Wilson's 95 % interval of their share.

    `confusion` counts the pairs of label and other answer, `unknown` the labels that are no class of the version: those
    images are neither right nor wrong.
    """

    images: int
    right: int
    confusion: Mapping[tuple[str, str], int]
    unknown: Mapping[str, int]

    @property
    def value(self) -> float:
        """Return the share of right answers, NaN without images."""
        return self.right / self.images if self.images else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Return both ends of the interval, from 0 to 1 without images."""
        return wilson(self.right, self.images)

    def document(self) -> dict[str, Any]:
        """Return the figures as JSON."""
        low, high = self.interval
        pairs = sorted(self.confusion.items(), key=lambda pair: -pair[1])
        return {
            "images": self.images,
            "right": self.right,
            "accuracy": {"value": self.value, "low": low, "high": high} if self.images else None,
            "confusion": [{"label": label, "answer": answer, "images": n} for (label, answer), n in pairs],
            "unknown_labels": dict(self.unknown),
        }


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the lines of a file of labels.

    Raises:
        FeedbackError: it cannot be read, a column is missing or a field is empty.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            names = [name for name in SOURCES if name in (reader.fieldnames or ())]
            if not names or "label" not in (reader.fieldnames or ()):
                raise FeedbackError(f"{path} needs a header with the columns label and one of {', '.join(SOURCES)}")
            lines = []
            for line in reader:
                name = next((name for name in names if line[name]), None)
                if not line["label"] or name is None:
                    raise FeedbackError(f"{path}, line {reader.line_num}: {' or '.join(names)} or label is empty")
                if not (line.get("image") or "0").isdecimal():
                    raise FeedbackError(f"{path}, line {reader.line_num}: image must be a place in its request")
                lines.append({key: line[key] for key in (name, "label", "image") if line.get(key)})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FeedbackError(f"{path} cannot be read as a table of labels: {error}") from error
    return lines


@dataclasses.dataclass(frozen=True, slots=True)
class Join:
    """Labels with the rows that they judge, and the lines of the table without one."""

    labels: Mapping[Key, Row]
    missing: Sequence[str]
    ambiguous: Sequence[str]  # of a request with several images, without a place


def join(lines: Sequence[Mapping[str, str]], folder: Path) -> Join:
    """Return the rows of the log that labels judge: by request the newest, by image all of them."""
    by_request: dict[str, dict[int, Row]] = collections.defaultdict(dict)
    by_image: dict[str, list[Row]] = collections.defaultdict(list)
    for row, _ in segments.read(folder):
        judged = {key: row[key] for key in ("time", "request_id", "image", "version", "sha256", "confidence")}
        judged["answer"] = row["label"]
        by_request[row["request_id"]][row["image"]] = judged
        by_image[row["sha256"]].append(judged)
    labels: dict[Key, Row] = {}
    missing, ambiguous = [], []
    for line in lines:
        if "request_id" in line:
            images = by_request.get(line["request_id"], {})
            if len(images) > 1 and "image" not in line:
                ambiguous.append(line["request_id"])
                continue
            place = int(line["image"]) if "image" in line else next(iter(images), 0)
            rows = [images[place]] if place in images else []
        else:
            rows = by_image.get(line.get("sha256") or _sha256(Path(line["path"])), [])
        if not rows:
            missing.append(next(iter(line.values())))
        for row in rows:
            labels[row["request_id"], row["image"]] = row | {"label": line["label"]}
    return Join(labels, missing, ambiguous)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise FeedbackError(f"{path} cannot be read: {error.strerror}. Paths are relative to this folder") from error


def keep(folder: Path, labels: Mapping[Key, Row]) -> list[Row]:
    """Add labels to those of a model's folder, and return all of them."""
    with atomic.locked(folder):
        earlier = {(row["request_id"], row["image"]): row for row in later_labels.read(folder)}
        # The newest come last.
        rows = {key: row for key, row in earlier.items() if key not in labels} | dict(labels)
        atomic.write_text(folder / later_labels.FILE, "".join(json.dumps(row) + "\n" for row in rows.values()))
    return list(rows.values())


def accuracies(labels: Iterable[Row], classes: Mapping[str, Sequence[str]]) -> dict[str, Accuracy]:
    """Return the accuracy of each version, oldest first; of a version without `classes`, any label counts."""
    by_version: dict[str, list[Row]] = collections.defaultdict(list)
    for row in labels:
        by_version[row["version"]].append(row)
    return {
        version: _accuracy(by_version[version], classes.get(version))
        for version in sorted(by_version, key=model_store.order)
    }


def _accuracy(rows: Sequence[Row], classes: Sequence[str] | None) -> Accuracy:
    judged = [row for row in rows if classes is None or row["label"] in classes]
    unknown = collections.Counter(row["label"] for row in rows if classes is not None and row["label"] not in classes)
    wrong = collections.Counter((row["label"], row["answer"]) for row in judged if row["label"] != row["answer"])
    return Accuracy(len(judged), len(judged) - wrong.total(), wrong, unknown)


def classes_of(root: Path, name: str, versions: Iterable[str]) -> dict[str, Sequence[str]]:
    """Return the classes of those versions whose archives are in the store."""
    classes = {}
    for version in versions:
        path = model_store.path_of(name, version, root / model_store.FOLDER)
        try:
            classes[version] = Archive(name, version, path).spec()["classes"]
        except ArchiveError:
            continue
    return classes


def export(folder: Path, labels: Iterable[Row], target: Path) -> int:
    """Write the logged images of labels into class folders; return their number.

    Raises:
        FeedbackError: the target has files, or no image is logged.
    """
    if target.exists() and any(target.iterdir()):
        raise FeedbackError(f"{target} is not empty: name a new folder")
    images = {row["sha256"]: path for row, path in segments.read(folder) if path.is_file()}
    classes = {row["sha256"]: row["label"] for row in labels if row["sha256"] in images}
    if not classes:
        raise FeedbackError("no labelled image is in the log: build the version with ARGS=handler.log_images=true")
    if wrong := [label for label in classes.values() if label.startswith(".") or "/" in label or "\0" in label]:
        raise FeedbackError(f"{wrong[0]!r} cannot be a folder's name: correct the label")
    for sha256, label in classes.items():
        (target / label).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(images[sha256], target / label / f"{sha256}{_suffix(images[sha256])}")
    return len(classes)


def _suffix(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(12)
    if start[4:8] == b"ftyp":
        return ".avif"
    return next((suffix for magic, suffix in SUFFIXES.items() if start.startswith(magic)), ".jpg")


def lines_of(name: str, accuracy: Mapping[str, Accuracy], joined: Join) -> list[str]:
    """Return the report for people."""
    lines = []
    for version, score in accuracy.items():
        low, high = score.interval
        lines.append(
            f"{name} {version}: {score.right} of {score.images} labelled images right, {score.value:.1%} "
            f"({low:.1%} to {high:.1%})"
            if score.images
            else f"{name} {version}: no labelled image of its classes"
        )
        worst = sorted(score.confusion.items(), key=lambda pair: -pair[1])[:PAIRS]
        lines += [f"  {label} answered as {answer}: {count}" for (label, answer), count in worst]
        if score.unknown:
            lines.append(f"  not counted, no class of {name} {version}: {_some(list(score.unknown))}")
    if joined.missing:
        lines.append(
            f"{len(joined.missing)} labels have no logged answer ({_some(joined.missing)}): the request is not in the "
            "sample, was removed from the log since, or its id is wrong"
        )
    if joined.ambiguous:
        lines.append(
            f"{len(joined.ambiguous)} labels are of requests with several images ({_some(joined.ambiguous)}): add a "
            "column image with the place in the request, from 0"
        )
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES]) + (", ..." if len(names) > NAMES else "")


def _run(root: Path, name: str, table: Path, target: Path | None) -> None:
    folder = log.folder_of(root, name)
    joined = join(read_csv(table), folder)
    labels = keep(folder, joined.labels)
    accuracy = accuracies(labels, classes_of(root, name, {row["version"] for row in labels}))
    document = {
        "model": name,
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "labels": len(labels),
        "without_answer": [*joined.missing, *joined.ambiguous],
        "versions": {version: score.document() for version, score in accuracy.items()},
    }
    atomic.write_json(folder / FIGURES, document)
    print("\n".join(lines_of(name, accuracy, joined)))
    if target is not None:
        print(f"{export(folder, labels, target)} images in {target}: make up RAW={target} NAME=<name>")


def main(arguments: Sequence[str] | None = None) -> int:
    """Join one table of labels; return 1 on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.feedback", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="the model")
    parser.add_argument("labels", type=Path, help="CSV with the columns request_id (or sha256, or path) and label")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="write the labelled images as class folders")
    options = parser.parse_args(arguments)
    try:
        _run(Path.cwd(), options.name, options.labels, options.export)
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
