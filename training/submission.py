"""Answer the test side of a data set's layout and write a submission as Kaggle takes it.

    python -m training.submission name=<run> [batch=64]

Writes `runs/<run>/submission.csv` with the columns `id` and `label`, the class as its number in the data set's order.
"""

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from handlers import atomic
from handlers.run_folder import RUNS, RunFolder
from training import configuration
from training.data.progress import plain_console
from training.data.records import DatasetError
from training.evaluate import answering, settings, trained
from training.predictions import predict


def run(folder: Path, *, batch: int = 64, console: Console | None = None) -> Path:
    """Write a run's submission, in the order of the data set, and return its path.

    Every image of the layout's test side is answered, labelled or not, whatever split the run was trained with.

    Raises:
        ConfigurationError: the run is not trained or not exported.
        DatasetError: the data set is not prepared or another one than it was trained on, has no test side, or an
            image's bytes have gone.
    """
    _, dataset = trained(folder)
    rows = np.flatnonzero(dataset.on_test_side)
    if not len(rows):
        raise DatasetError(f"{dataset.folder}: its layout has no test side, so there is nothing to submit")
    records = [dataset.record(int(row)) for row in rows]
    probabilities = predict(
        answering(folder, dataset),
        records,
        dataset.raw,
        batch=batch,
        console=console or plain_console(),
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "label"))
    writer.writerows(
        (record.id, int(answer)) for record, answer in zip(records, probabilities.argmax(axis=1), strict=True)
    )
    path = RunFolder(folder).submission
    atomic.write_text(path, text.getvalue())
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the submission of the run that the command line names."""
    try:
        options = settings(sys.argv[1:] if arguments is None else arguments, {"name": "", "batch": 64})
        path = run(RUNS / options["name"], batch=max(1, options["batch"]))
    except (configuration.ConfigurationError, DatasetError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
