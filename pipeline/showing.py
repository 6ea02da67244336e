"""Ask the server for a handful of test images and show its answers beside the truth."""

import dataclasses
import shlex
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from handlers.run_folder import RunFolder
from pipeline.steps import Served
from serving.client import Client
from training.predictions import Predictions

TOKEN = """$(.venv/bin/python -c 'import json; print(json.load(open("key_file.json"))["inference"]["key"])')"""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One image, its true class, and the server's answer; `milliseconds` from sending to the parsed answer."""

    path: str
    true: str | None
    predicted: str
    probability: float
    milliseconds: float


def pick(predictions: Predictions, count: int) -> list[int]:
    """Return the rows of `count` test images, of as many different classes as there are."""
    order = np.random.default_rng(0).permutation(len(predictions.labels))
    firsts = {int(predictions.labels[row]): int(row) for row in order[::-1]}
    rows = [firsts[label] for label in sorted(firsts)]
    step = max(1, len(rows) // count)
    rows = rows[::step][:count]
    return rows + [int(row) for row in order if int(row) not in rows][: count - len(rows)]


def ask(served: Served, run: Path, classes: list[str], count: int, root: Path) -> list[Answer]:
    """Send `count` test images of a run's evaluation to the server, one after the other.

    Raises:
        ClientError: the server refuses one, or does not answer.
    """
    predictions = Predictions.load(RunFolder(run).predictions)
    records, answers = predictions.records(), []
    with Client(root=root) as client:
        for row in pick(predictions, count):
            path, image = predictions.raw / records[row].path, records[row].read(predictions.raw)
            start_time = time.perf_counter()
            answer = client.predict(image, served.archive.name, served.archive.version)
            milliseconds = 1000 * (time.perf_counter() - start_time)
            label = int(predictions.labels[row])
            true = classes[label] if label >= 0 else None
            answers.append(
                Answer(_short(path, root), true, answer.label, answer.probabilities[answer.label], milliseconds)
            )
    return answers


def _short(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def show(answers: list[Answer], served: Served, console: Console) -> None:
    """Print the answers as a table, and what to do next."""
    table = Table(title=f"{served.archive.name} {served.archive.version}, served at {served.address}")
    table.caption = "p: probability of the predicted class; ms: from sending an image over REST to its parsed answer"
    for heading in ("image", "true", "predicted"):
        table.add_column(heading, overflow="fold")
    for heading in ("p", "ms"):
        table.add_column(heading, justify="right")
    for answer in answers:
        colour = "green" if answer.predicted == answer.true else "red"
        predicted = Text(answer.predicted, colour if answer.true else "")
        row = (f"{answer.probability:.3f}", f"{answer.milliseconds:.0f}")
        table.add_row(Path(answer.path).name, answer.true or "", predicted, *row)
    console.print(table)
    image = shlex.quote(answers[0].path)
    url = f"{served.address}/predictions/{served.archive.name}"
    for line in (
        "Ask it yourself, from this folder:",
        f'  curl -sS -H "Authorization: Bearer {TOKEN}" -T {image} {url}',
        f"  make predict NAME={served.archive.name} IMAGE={image}",
        "Stop the server:",
        "  make stop",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
