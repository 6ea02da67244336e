"""Send every image of a run's evaluation to the server, and compare its answers with the evaluated ones.

python -m pipeline.agreement fingers         the default version that is served
python -m pipeline.agreement fingers 1.0

Reads runs/<name>/evaluation/predictions.npz and the images from their old paths; writes evaluation/served.json.
Evaluation is in float32. The tolerance depends on the precision of the server's answers: float32 must give every
probability again, bf16 and fp16 the same best label for 99.8 % of the images, int8 a top-1 at most half a point lower.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from handlers import tolerances
from handlers.run_folder import RUNS, RunFolder
from serving import archive
from serving.client import Client, Prediction, RequestRefused
from serving.errors import ServingError
from serving.store import model_store
from training.data.records import DatasetError
from training.predictions import Predictions

TOLERANCE = tolerances.FP32


@dataclasses.dataclass(slots=True)
class _Counts:
    """The counts of a comparison, answer by answer."""

    evaluated: Predictions
    columns: Mapping[str, int]  # of the probabilities, by label
    exact: bool  # whether each probability must be the evaluated one, and not only the best label
    versions: set[str | None] = dataclasses.field(default_factory=set)
    differing: list[str] = dataclasses.field(default_factory=list)  # ids of images
    labelled: int = 0
    refused: int = 0
    correct: int = 0
    same: int = 0  # best label as evaluated
    largest: float = 0.0  # difference of a probability

    def add(self, row: int, answer: Prediction | RequestRefused) -> None:
        """Count the answer for the image of a row."""
        label = int(self.evaluated.labels[row])
        self.labelled += label >= 0
        if isinstance(answer, RequestRefused) or not answer.probabilities.keys() <= self.columns.keys():
            self.refused += 1
            self.differing.append(str(self.evaluated.ids[row]))
            return
        probabilities = self.evaluated.probabilities[row]
        best, served = int(probabilities.argmax()), self.columns[answer.label]
        difference = max(abs(p - float(probabilities[self.columns[k]])) for k, p in answer.probabilities.items())
        self.versions.add(answer.version)
        self.correct += served == label
        self.same += served == best
        self.largest = max(self.largest, difference)
        if served != best or (self.exact and difference > TOLERANCE):
            self.differing.append(str(self.evaluated.ids[row]))


def compare(run: Path, model: str, version: str | None, *, client: Client) -> dict[str, Any]:
    """Ask for every image of a run's evaluation and return the document that served.json holds.

    Raises:
        ClientError: the server does not answer.
        ServingError: it answers in a precision without a tolerance.
        DatasetError: the run is not evaluated, or an image is gone.
        ArchiveError: the run has no model.pt.
    """
    files = RunFolder(run)
    evaluated = Predictions.load(files.predictions)
    columns = {label: index for index, label in enumerate(archive.read_spec(files.model)["classes"])}
    precision = client.description(model, version)["precision"]
    if precision not in ("fp32", "bf16", "fp16", "int8"):
        raise ServingError(f"{model} answers in {precision}, a precision without a tolerance")
    counts, images = _Counts(evaluated, columns, exact=precision == "fp32"), len(evaluated.probabilities)
    start_time = time.perf_counter()
    with Progress(console=Console(stderr=True, markup=False, emoji=False)) as progress:
        answers = client.predict_many(evaluated.images(), model, version)
        for row, answer in enumerate(progress.track(answers, total=images, description="Asking the server")):
            counts.add(row, answer)
    evaluated_correct = int((evaluated.probabilities.argmax(axis=1) == evaluated.labels).sum())
    return {
        "model": model,
        "precision": precision,
        "versions": sorted(map(str, counts.versions)),
        "images": images,
        "agree": images - len(counts.differing),
        "same_top1": counts.same,
        "largest_difference": counts.largest,
        "tolerance": TOLERANCE,
        "refused": counts.refused,
        "labelled": counts.labelled,
        "correct": counts.correct,
        "evaluated_correct": evaluated_correct,
        "top1": counts.correct / counts.labelled if counts.labelled else None,
        "seconds": time.perf_counter() - start_time,
        "apart": counts.differing[:100],
    }


def allowed(document: dict[str, Any]) -> bool:
    """Return whether a document of `compare` is within what its precision allows."""
    if document["refused"]:
        return False
    if document["precision"] == "fp32":
        return bool(document["agree"] == document["images"])
    if document["precision"] == "int8" and document["labelled"]:
        loss = document["evaluated_correct"] - document["correct"]
        return bool(loss <= tolerances.INT8_TOP1_LOST * document["labelled"])
    return bool(document["same_top1"] >= tolerances.ROUNDED_SAME_TOP1 * document["images"])


def main() -> int:
    """Compare; 0 where the answers agree as far as their precision allows."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.agreement", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="the run and the model")
    parser.add_argument("version", nargs="?", help="a version other than the default one")
    arguments = parser.parse_args()
    run = RUNS / arguments.name
    try:
        model_store.check_name(arguments.name)
        with Client() as client:
            document = compare(run, arguments.name, arguments.version, client=client)
    except (ServingError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    path = RunFolder(run).served
    path.write_text(json.dumps(document, indent=2) + "\n")
    share = "no labels" if document["top1"] is None else f"served top-1 {document['top1']:.2%}"
    print(
        f"{document['agree']} of {document['images']} answers in {document['precision']} agree, largest difference "
        f"{document['largest_difference']:.1e}, {share}: {path}"
    )
    return int(not allowed(document))


if __name__ == "__main__":
    sys.exit(main())
