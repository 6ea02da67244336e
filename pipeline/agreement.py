"""Send every image of a run's evaluation to the server, and compare its answers with the evaluated ones.

python -m pipeline.agreement fingers         the default version that is served
python -m pipeline.agreement fingers 1.0

Reads runs/<name>/evaluation/predictions.npz and the images from their old paths; writes evaluation/served.json.
Evaluation is in float32. The tolerance depends on the precision of the server's answers: float32 must give every
probability again, bf16 and fp16 the same best label for 99.8 % of the images, int8 a top-1 at most half a point lower.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from handlers import tolerances
from handlers.run_folder import RUNS, RunFolder
from serving import archive
from serving.client import Client, RequestRefused
from serving.errors import ServingError
from serving.store import model_store
from training.data.records import DatasetError
from training.predictions import Predictions

TOLERANCE = tolerances.FP32


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
    column = {label: index for index, label in enumerate(archive.read_spec(files.model)["classes"])}
    best: list[int] = evaluated.probabilities.argmax(axis=1).tolist()
    versions: set[str | None] = set()
    apart: list[str] = []
    precision = client.description(model, version)["precision"]
    if precision not in ("fp32", "bf16", "fp16", "int8"):
        raise ServingError(f"{model} answers in {precision}, a precision without a tolerance")
    correct = labelled = refused = same = 0
    largest = 0.0
    began = time.perf_counter()
    with Progress(console=Console(stderr=True, markup=False, emoji=False)) as progress:
        answers = client.predict_many(evaluated.images(), model, version)
        for row, answer in enumerate(progress.track(answers, total=len(best), description="Asking the server")):
            label = int(evaluated.labels[row])
            labelled += label >= 0
            if isinstance(answer, RequestRefused) or not set(answer.probabilities) <= set(column):
                refused += 1
                apart.append(str(evaluated.ids[row]))
                continue
            versions.add(answer.version)
            served = column[answer.label]
            correct += served == label
            same += served == best[row]
            differences = [
                abs(p - float(evaluated.probabilities[row, column[k]])) for k, p in answer.probabilities.items()
            ]
            largest = max(largest, *differences)
            if served != best[row] or (precision == "fp32" and max(differences) > TOLERANCE):
                apart.append(str(evaluated.ids[row]))
    right = int((evaluated.probabilities.argmax(axis=1) == evaluated.labels).sum())
    return {
        "model": model,
        "precision": precision,
        "versions": sorted(map(str, versions)),
        "images": len(best),
        "agree": len(best) - len(apart),
        "same_top1": same,
        "largest_difference": largest,
        "tolerance": TOLERANCE,
        "refused": refused,
        "labelled": labelled,
        "correct": correct,
        "evaluated_correct": right,
        "top1": correct / labelled if labelled else None,
        "seconds": time.perf_counter() - began,
        "apart": apart[:100],
    }


def allowed(document: dict[str, Any]) -> bool:
    """Return whether a document of `compare` is within what its precision allows."""
    if document["refused"]:
        return False
    if document["precision"] == "fp32":
        return bool(document["agree"] == document["images"])
    if document["precision"] == "int8" and document["labelled"]:
        lost = document["evaluated_correct"] - document["correct"]
        return bool(lost <= tolerances.INT8_TOP1_LOST * document["labelled"])
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
